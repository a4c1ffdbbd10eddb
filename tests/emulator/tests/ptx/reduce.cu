// Softmax, top-k, warp primitives, atomics, local arrays, constants and dynamic shared memory.
#include <cstdint>
extern "C" __global__ void softmax_top(const float* in, float* out, int* top, float* top_value, int classes, int k) {
    extern __shared__ float row[];
    __shared__ float partial[32];
    __shared__ int partial_index[32];
    const float* x = in + (size_t)blockIdx.x * classes;
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, warps = blockDim.x >> 5;
    float high = -__int_as_float(0x7f800000);
    for (int i = threadIdx.x; i < classes; i += blockDim.x) high = fmaxf(high, row[i] = x[i]);
    for (int o = 16; o; o >>= 1) high = fmaxf(high, __shfl_xor_sync(~0u, high, o));
    if (lane == 0) partial[warp] = high;
    __syncthreads();
    high = partial[0];
    for (int i = 1; i < warps; i++) high = fmaxf(high, partial[i]);
    __syncthreads();
    float sum = 0.0f;
    for (int i = threadIdx.x; i < classes; i += blockDim.x) sum += row[i] = expf(row[i] - high);
    for (int o = 16; o; o >>= 1) sum += __shfl_down_sync(~0u, sum, o);
    sum = __shfl_sync(~0u, sum, 0);
    if (lane == 0) partial[warp] = sum;
    __syncthreads();
    sum = 0.0f;
    for (int i = 0; i < warps; i++) sum += partial[i];
    for (int i = threadIdx.x; i < classes; i += blockDim.x)
        out[(size_t)blockIdx.x * classes + i] = row[i] = __fdividef(row[i], sum);
    for (int t = 0; t < k; t++) {
        __syncthreads();
        float best = -1.0f;
        int at = 0x7fffffff;
        for (int i = threadIdx.x; i < classes; i += blockDim.x)
            if (row[i] > best) best = row[i], at = i;
#pragma unroll
        for (int o = 16; o; o >>= 1) {
            const float other = __shfl_xor_sync(~0u, best, o);
            const int index = __shfl_xor_sync(~0u, at, o);
            if (other > best || (other == best && index < at)) best = other, at = index;
        }
        if (lane == 0) partial[warp] = best, partial_index[warp] = at;
        __syncthreads();
        if (threadIdx.x == 0) {
            for (int i = 1; i < warps; i++)
                if (partial[i] > best || (partial[i] == best && partial_index[i] < at))
                    best = partial[i], at = partial_index[i];
            top[blockIdx.x * k + t] = at;
            top_value[blockIdx.x * k + t] = best;
            row[at] = -1.0f;
        }
    }
}

__constant__ float table[4] = {1.0f, 2.5f, -3.0f, 0.25f};

extern "C" __global__ void warp_primitives(const int* in, unsigned* out, unsigned* tally, int count) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    const int v = i < count ? in[i] : 0;
    const unsigned positive = __ballot_sync(~0u, v > 0);
    unsigned result = __popc(positive) + (__any_sync(~0u, v == 3) ? 100 : 0) + (__all_sync(~0u, v < 9) ? 1000 : 0);
    if (v > 0) {
        const unsigned active = __activemask();
        if ((threadIdx.x & 31) == __ffs(active) - 1) atomicAdd(tally, __popc(active));
        const int rank = __popc(active & ((1u << (threadIdx.x & 31)) - 1));
        result += rank * 10000 + __shfl_sync(positive, v, __ffs(positive) - 1);
        __syncwarp(positive);
    }
    if (i < count) out[i] = result + __clz(v) + (__brev(v) >> 24);
}

extern "C" __global__ void atomics(const float* in, float* sum, int* ints, int count) {
    __shared__ int most;
    if (threadIdx.x == 0) most = 0;
    __syncthreads();
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < count) {
        atomicAdd(sum, in[i]);
        atomicMax(&most, int(in[i]));
        atomicMin(ints + 1, i);
        atomicOr(ints + 2, 1 << (i & 31));
        atomicCAS(ints + 3, i, -1);
        atomicExch(ints + 4, 5);
        atomicInc((unsigned*)ints + 5, 6);
        atomicDec((unsigned*)ints + 6, 6);
        atomicXor(ints + 7, i);
        atomicAnd(ints + 8, ~(1 << (i & 31)));
    }
    __syncthreads();
    if (threadIdx.x == 0) atomicMax(ints, most);
    __threadfence();
}

extern "C" __global__ void local_array(const int* in, float* out, int count) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    float values[16];
#pragma unroll 1
    for (int j = 0; j < 16; j++) values[j] = in[(i + j) % count] * table[j & 3];
    float total = 0.0f;
#pragma unroll 1
    for (int j = 0; j < count; j++) total += values[in[j] & 15];
    if (i < count) out[i] = total;
}

extern "C" __global__ void conversions(const float* in, int8_t* bytes, uint16_t* halves, long long* wide, float* out) {
    const int i = threadIdx.x;
    const float v = in[i];
    bytes[i] = int8_t(__float2int_rn(v));
    halves[i] = uint16_t(v);
    wide[i] = (long long)v * i / 3 % 7;
    out[i] = truncf(v) + rintf(v) + ceilf(v) + roundf(v) + floorf(v) + fabsf(-v) + __saturatef(v) + fminf(v, 2.0f)
             + float(bytes[i]) + copysignf(1.0f, v) + float(wide[i]);
}

extern "C" __global__ void functions(const float* in, float* out) {
    const float v = in[threadIdx.x];
    float* o = out + threadIdx.x * 6;
    o[0] = logf(v), o[1] = powf(v, 0.75f), o[2] = expf(-v), o[3] = tanhf(v), o[4] = rsqrtf(v), o[5] = exp2f(v);
}

// Bytes of a word by byte permutation and funnel shift, a 2-d block, 64-bit packing.
extern "C" __global__ void words(const uint2* in, uint2* out, int width) {
    const int x = blockIdx.x * blockDim.x + threadIdx.x, y = blockIdx.y * blockDim.y + threadIdx.y;
    const uint2 v = in[y * width + x];
    const unsigned long long both = (unsigned long long)v.y << 32 | v.x;
    uint2 r;
    r.x = __byte_perm(v.x, v.y, 0x2461) ^ __funnelshift_l(v.x, v.y, 9) ^ __umulhi(v.x, v.y);
    r.y = unsigned(both % 1000003u) ^ unsigned(__mulhi(int(v.x), int(v.y))) ^ unsigned(both >> 17);
    out[y * width + x] = r;
}
