// One mistake each, next to the same kernel without it.
#define ENTRY extern "C" __global__ void

ENTRY bound_ok(const float* in, float* out, int n) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) out[i] = in[i] * 2.0f;
}
// `<=` for `<`: one past the end of the input; the output has room for it.
ENTRY bound_bug(const float* in, float* out, int n) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i <= n) out[i] = in[i] * 2.0f;
}
// Writes past the end of the output.
ENTRY write_bug(const float* in, float* out, int n) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) out[i + 1] = in[i] * 2.0f;
}
ENTRY vector_ok(const float* in, float* out, int quads) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < quads) {
        const float4 v = *reinterpret_cast<const float4*>(in + 4 * i);
        out[i] = v.x + v.y + v.z + v.w;
    }
}
// Four floats from an address that is a multiple of 4 only.
ENTRY vector_bug(const float* in, float* out, int quads) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < quads - 1) {
        const float4 v = *reinterpret_cast<const float4*>(in + 4 * i + 1);
        out[i] = v.x + v.y + v.z + v.w;
    }
}
ENTRY shared_ok(const float* in, float* out) {
    __shared__ float tile[64];
    tile[threadIdx.x] = in[threadIdx.x];
    __syncthreads();
    out[threadIdx.x] = tile[63 - threadIdx.x];
}
// The last thread does not fill its element.
ENTRY shared_bug(const float* in, float* out) {
    __shared__ float tile[64];
    if (threadIdx.x < 63) tile[threadIdx.x] = in[threadIdx.x];
    __syncthreads();
    out[threadIdx.x] = tile[63 - threadIdx.x];
}
// Outside the block's shared memory.
ENTRY window_bug(const float* in, float* out) {
    __shared__ float tile[64];
    tile[threadIdx.x + 1] = in[threadIdx.x];
    __syncthreads();
    out[threadIdx.x] = tile[threadIdx.x & 31];
}
ENTRY barrier_ok(const float* in, float* out) {
    __shared__ float tile[64];
    tile[threadIdx.x] = in[threadIdx.x];
    __syncthreads();
    if (threadIdx.x % 2) out[threadIdx.x] = tile[threadIdx.x ^ 1];
    else out[threadIdx.x] = 1.0f;
}
// Odd threads only.
ENTRY barrier_bug(const float* in, float* out) {
    __shared__ float tile[64];
    tile[threadIdx.x] = in[threadIdx.x];
    if (threadIdx.x % 2) {
        __syncthreads();
        out[threadIdx.x] = tile[threadIdx.x];
    } else {
        out[threadIdx.x] = 1.0f;
    }
}
ENTRY shuffle_ok(const int* in, int* out) {
    int v = in[threadIdx.x];
    for (int o = 16; o; o >>= 1) v += __shfl_down_sync(~0u, v, o);
    out[threadIdx.x] = v;
}
// Half of the warp shuffles with lanes that do not take part.
ENTRY shuffle_bug(const int* in, int* out) {
    int v = in[threadIdx.x];
    if (threadIdx.x < 16) v += __shfl_down_sync(~0u, v, 8);
    out[threadIdx.x] = v;
}
// The mask is right, but the source lane is not in it.
ENTRY shuffle_source_bug(const int* in, int* out) {
    int v = in[threadIdx.x];
    if (threadIdx.x < 16) v += __shfl_xor_sync(0xffffu, v, 16);
    out[threadIdx.x] = v;
}
ENTRY vote_bug(const int* in, int* out) {
    int v = in[threadIdx.x];
    if (threadIdx.x < 16) v += __ballot_sync(~0u, v > 3);
    out[threadIdx.x] = v;
}
// The first warp alone waits for 64 threads.
ENTRY deadlock_bug(float* out) {
    if (threadIdx.x < 32) asm volatile("bar.sync 1, 64;" ::: "memory");
    out[threadIdx.x] = 1.0f;
}
ENTRY named_barrier_ok(float* out) {
    __shared__ float tile[32];
    if (threadIdx.x < 32) tile[threadIdx.x] = 2.0f;
    if (threadIdx.x < 64) asm volatile("bar.sync 1, 64;" ::: "memory");
    out[threadIdx.x] = threadIdx.x < 64 ? tile[threadIdx.x & 31] : 1.0f;
}
ENTRY trap_bug(const int* in) {
    if (in[threadIdx.x] == 7) __trap();
}
