// Tensor-core instructions, and a matrix product made of them.
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <stdint.h>

#include <type_traits>

// Row addresses of `ldmatrix` are those of the shared window.
__device__ unsigned window(const void* pointer) {
    return static_cast<unsigned>(__cvta_generic_to_shared(pointer));
}

__device__ void load_x4(unsigned (&r)[4], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(window(row)));
}

__device__ void load_x4_trans(unsigned (&r)[4], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(window(row)));
}

__device__ void load_x2_trans(unsigned& r0, unsigned& r1, const __half* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared::cta.b16 {%0, %1}, [%2];"
                 : "=r"(r0), "=r"(r1) : "r"(window(row)));
}

template <typename T> __device__ void mma_f32(float (&d)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
    if constexpr (std::is_same_v<T, __nv_bfloat16>)
        asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
                     "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                     : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
    else
        asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
                     "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                     : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

__device__ void mma_tf32(float (&d)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
    asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 "
                 "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// d = a b + c of one warp: a 16 by 16 and b 16 by 8, row by row. The operands go through shared memory, d and c are
// addressed by the documented layout of the accumulator.
extern "C" __global__ void product_k16(const __half* a, const __half* b, const float* c, float* d) {
    __shared__ __align__(16) __half x[16][24], y[16][8];
    const int lane = threadIdx.x;
    for (int i = lane; i < 256; i += 32) x[i / 16][i % 16] = a[blockIdx.x * 256 + i];
    for (int i = lane; i < 128; i += 32) y[i / 8][i % 8] = b[blockIdx.x * 128 + i];
    __syncwarp();
    unsigned p[4], q[2];
    load_x4(p, &x[lane % 16][lane / 16 * 8]);
    load_x2_trans(q[0], q[1], &y[lane % 16][0]);
    float sum[4];
    const int row = lane / 4, column = lane % 4 * 2, base = blockIdx.x * 128;
    for (int i = 0; i < 4; i++) sum[i] = c[base + (row + i / 2 * 8) * 8 + column + i % 2];
    mma_f32<__half>(sum, p, q[0], q[1]);
    for (int i = 0; i < 4; i++) d[base + (row + i / 2 * 8) * 8 + column + i % 2] = sum[i];
}

// The same with b column by column, loaded without .trans, and half the depth.
extern "C" __global__ void product_k8(const __half* a, const __half* b, const float* c, float* d) {
    __shared__ __align__(16) __half x[16][8], y[8][8];
    const int lane = threadIdx.x;
    for (int i = lane; i < 128; i += 32) x[i / 8][i % 8] = a[blockIdx.x * 128 + i];
    for (int i = lane; i < 64; i += 32) y[i % 8][i / 8] = b[blockIdx.x * 64 + i];
    __syncwarp();
    unsigned p0, p1, q;
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0, %1}, [%2];"
                 : "=r"(p0), "=r"(p1) : "r"(window(&x[lane % 16][0])));
    asm volatile("ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%0}, [%1];" : "=r"(q) : "r"(window(&y[lane % 8][0])));
    float sum[4];
    const int row = lane / 4, column = lane % 4 * 2, base = blockIdx.x * 128;
    for (int i = 0; i < 4; i++) sum[i] = c[base + (row + i / 2 * 8) * 8 + column + i % 2];
    asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 "
                 "{%0, %1, %2, %3}, {%4, %5}, {%6}, {%0, %1, %2, %3};"
                 : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3]) : "r"(p0), "r"(p1), "r"(q));
    for (int i = 0; i < 4; i++) d[base + (row + i / 2 * 8) * 8 + column + i % 2] = sum[i];
}

// f16 accumulators. The operands come from global memory by the documented layouts, without `ldmatrix`.
extern "C" __global__ void product_half(const __half* a, const __half* b, const __half* c, __half* d, int depth) {
    const int lane = threadIdx.x, row = lane / 4, column = lane % 4 * 2;
    a += blockIdx.x * 16 * depth, b += blockIdx.x * 8 * depth, c += blockIdx.x * 128, d += blockIdx.x * 128;
    unsigned p[4], q[2], sum[2];
    for (int i = 0; i < depth / 4; i++)
        p[i] = *reinterpret_cast<const unsigned*>(a + (row + i % 2 * 8) * depth + column + i / 2 * 8);
    for (int i = 0; i < depth / 8; i++) {
        const int k = column + i * 8;
        const __half2 pair = __halves2half2(b[k * 8 + row], b[(k + 1) * 8 + row]);
        q[i] = *reinterpret_cast<const unsigned*>(&pair);
    }
    for (int i = 0; i < 2; i++) sum[i] = *reinterpret_cast<const unsigned*>(c + (row + i * 8) * 8 + column);
    if (depth == 16)
        asm volatile("mma.sync.aligned.m16n8k16.row.col.f16.f16.f16.f16 {%0, %1}, {%2, %3, %4, %5}, {%6, %7}, {%0, %1};"
                     : "+r"(sum[0]), "+r"(sum[1]) : "r"(p[0]), "r"(p[1]), "r"(p[2]), "r"(p[3]), "r"(q[0]), "r"(q[1]));
    else
        asm volatile("mma.sync.aligned.m16n8k8.row.col.f16.f16.f16.f16 {%0, %1}, {%2, %3}, {%4}, {%0, %1};"
                     : "+r"(sum[0]), "+r"(sum[1]) : "r"(p[0]), "r"(p[1]), "r"(q[0]));
    for (int i = 0; i < 2; i++) *reinterpret_cast<unsigned*>(d + (row + i * 8) * 8 + column) = sum[i];
}

// Factors of bf16 in the same way, with f32 accumulators.
extern "C" __global__ void product_bfloat(const __nv_bfloat16* a, const __nv_bfloat16* b, const float* c, float* d,
                                          int depth) {
    const int lane = threadIdx.x, row = lane / 4, column = lane % 4 * 2;
    a += blockIdx.x * 16 * depth, b += blockIdx.x * 8 * depth, c += blockIdx.x * 128, d += blockIdx.x * 128;
    unsigned p[4], q[2];
    for (int i = 0; i < depth / 4; i++)
        p[i] = *reinterpret_cast<const unsigned*>(a + (row + i % 2 * 8) * depth + column + i / 2 * 8);
    for (int i = 0; i < depth / 8; i++) {
        const int k = column + i * 8;
        const __nv_bfloat162 pair = __halves2bfloat162(b[k * 8 + row], b[(k + 1) * 8 + row]);
        q[i] = *reinterpret_cast<const unsigned*>(&pair);
    }
    float sum[4];
    for (int i = 0; i < 4; i++) sum[i] = c[(row + i / 2 * 8) * 8 + column + i % 2];
    if (depth == 16)
        mma_f32<__nv_bfloat16>(sum, p, q[0], q[1]);
    else
        asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.bf16.bf16.f32 "
                     "{%0, %1, %2, %3}, {%4, %5}, {%6}, {%0, %1, %2, %3};"
                     : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3]) : "r"(p[0]), "r"(p[1]), "r"(q[0]));
    for (int i = 0; i < 4; i++) d[(row + i / 2 * 8) * 8 + column + i % 2] = sum[i];
}

// Factors of tf32, as they are in memory, not rounded.
extern "C" __global__ void product_tensor(const unsigned* a, const unsigned* b, const float* c, float* d, int depth) {
    const int lane = threadIdx.x, row = lane / 4, column = lane % 4;
    a += blockIdx.x * 16 * depth, b += blockIdx.x * 8 * depth, c += blockIdx.x * 128, d += blockIdx.x * 128;
    unsigned p[4], q[2];
    for (int i = 0; i < depth / 2; i++) p[i] = a[(row + i % 2 * 8) * depth + column + i / 2 * 4];
    for (int i = 0; i < depth / 4; i++) q[i] = b[(column + i * 4) * 8 + row];
    float sum[4];
    for (int i = 0; i < 4; i++) sum[i] = c[(row + i / 2 * 8) * 8 + column * 2 + i % 2];
    if (depth == 8)
        mma_tf32(sum, p, q[0], q[1]);
    else
        asm volatile("mma.sync.aligned.m16n8k4.row.col.f32.tf32.tf32.f32 "
                     "{%0, %1, %2, %3}, {%4, %5}, {%6}, {%0, %1, %2, %3};"
                     : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3]) : "r"(p[0]), "r"(p[1]), "r"(q[0]));
    for (int i = 0; i < 4; i++) d[(row + i / 2 * 8) * 8 + column * 2 + i % 2] = sum[i];
}

// Two buffers in turn, read by generic pointers: out[lane] is the sum of its parts of all matrices.
extern "C" __global__ void buffers_in_turn(const uint4* in, unsigned* out, int rounds) {
    extern __shared__ __align__(16) __half space[];
    __half* const buffers[] = {space, space + 256};
    unsigned sum = 0;
    for (int i = 0; i < rounds; i++) {
        *reinterpret_cast<uint4*>(space + i % 2 * 256 + threadIdx.x * 8) = in[i * 32 + threadIdx.x];
        __syncwarp();
        unsigned r[4];
        load_x4(r, buffers[i % 2] + threadIdx.x * 8);
        sum += r[0] + r[1] + r[2] + r[3];
    }
    out[threadIdx.x] = sum;
}

// Planted bugs: `which` picks one, 0 is none.
extern "C" __global__ void tensor_bug(unsigned* out, int which) {
    __shared__ __align__(16) __half x[32][8];
    const int lane = threadIdx.x;
    if (which != 1 || lane != 9)
        for (int i = 0; i < 8; i++) x[lane][i] = __float2half(0.0f);
    __syncwarp();
    const char* row = reinterpret_cast<const char*>(x[lane]);
    if (which == 2 && lane == 5) row += 8;
    if (which == 3 && lane == 31) row += 16;
    unsigned r[4];
    float sum[4] = {};
    load_x4(r, reinterpret_cast<const __half*>(row));
    if (which == 4) {
        if (lane != 3) mma_f32<__half>(sum, r, r[0], r[1]);
    } else if (which == 5) {
        if (lane < 16) load_x4(r, x[lane]);
        else load_x4_trans(r, x[lane]);
    } else if (which == 6) {
        if (lane == 0) return;
        mma_f32<__half>(sum, r, r[0], r[1]);
    } else {
        mma_f32<__half>(sum, r, r[0], r[1]);
    }
    out[lane] = r[0] + __float_as_uint(sum[0]);
}

// The accumulators of a warp, whose results begin at (row, column), to c.
__device__ void store(const float (&sum)[2][4][4], float* c, int row, int column, int m, int n) {
    const int lane = threadIdx.x % 32;
    for (int i = 0; i < 2; i++)
        for (int j = 0; j < 4; j++)
            for (int e = 0; e < 4; e++) {
                const int r = row + i * 16 + lane / 4 + e / 2 * 8, s = column + j * 8 + lane % 4 * 2 + e % 2;
                if (r < m && s < n) c[r * n + s] = sum[i][j][e];
            }
}

// c = a b of any m, n, k, row by row. 128 threads compute a tile of 64 by 64, each warp a quarter of it.
template <typename T> __device__ void gemm(const T* __restrict__ a, const T* __restrict__ b, float* c, int m,
                                           int n, int k) {
    constexpr int tile = 64, depth = 32;
    // Rows start 16 bytes further on, so that those of an ldmatrix lie in different banks.
    __shared__ __align__(16) T x[tile][depth + 8], y[depth][tile + 8];
    const int row = blockIdx.y * tile, column = blockIdx.x * tile;
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, top = warp / 2 * 32, left = warp % 2 * 32;
    float sum[2][4][4] = {};
    for (int start = 0; start < k; start += depth) {
        for (int i = threadIdx.x; i < tile * depth; i += 128) {
            const int r = i / depth, d = i % depth;
            x[r][d] = row + r < m && start + d < k ? a[(row + r) * k + start + d] : T(0.0f);
        }
        for (int i = threadIdx.x; i < depth * tile; i += 128) {
            const int d = i / tile, r = i % tile;
            y[d][r] = column + r < n && start + d < k ? b[(start + d) * n + column + r] : T(0.0f);
        }
        __syncthreads();
#pragma unroll
        for (int d = 0; d < depth; d += 16) {
            unsigned p[2][4], q[2][4];
            for (int i = 0; i < 2; i++) load_x4(p[i], &x[top + i * 16 + lane % 16][d + lane / 16 * 8]);
            for (int j = 0; j < 2; j++) load_x4_trans(q[j], &y[d + lane % 16][left + j * 16 + lane / 16 * 8]);
            for (int i = 0; i < 2; i++)
                for (int j = 0; j < 4; j++) mma_f32<T>(sum[i][j], p[i], q[j / 2][j % 2 * 2], q[j / 2][j % 2 * 2 + 1]);
        }
        __syncthreads();
    }
    store(sum, c, row + top, column + left, m, n);
}

extern "C" __global__ void tensor_gemm(const __half* __restrict__ a, const __half* __restrict__ b, float* c, int m,
                                       int n, int k) {
    gemm(a, b, c, m, n, k);
}

extern "C" __global__ void tensor_gemm_bf16(const __nv_bfloat16* __restrict__ a, const __nv_bfloat16* __restrict__ b,
                                            float* c, int m, int n, int k) {
    gemm(a, b, c, m, n, k);
}

__device__ float rounded(float value) {
    unsigned bits;
    asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(value));
    return __uint_as_float(bits);
}

// The same with factors rounded to tf32. b is transposed on its way to shared memory, so that a row of 16 bytes is four
// elements of one of its columns: no ldmatrix transposes elements of 32 bits.
extern "C" __global__ void tensor_gemm_tf32(const float* __restrict__ a, const float* __restrict__ b, float* c, int m,
                                            int n, int k) {
    constexpr int tile = 64, depth = 32;
    __shared__ __align__(16) float x[tile][depth + 4], y[tile][depth + 4];
    const int row = blockIdx.y * tile, column = blockIdx.x * tile;
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, top = warp / 2 * 32, left = warp % 2 * 32;
    float sum[2][4][4] = {};
    for (int start = 0; start < k; start += depth) {
        for (int i = threadIdx.x; i < tile * depth; i += 128) {
            const int r = i / depth, d = i % depth;
            x[r][d] = row + r < m && start + d < k ? rounded(a[(row + r) * k + start + d]) : 0.0f;
        }
        for (int i = threadIdx.x; i < depth * tile; i += 128) {
            const int d = i / tile, r = i % tile;
            y[r][d] = column + r < n && start + d < k ? rounded(b[(start + d) * n + column + r]) : 0.0f;
        }
        __syncthreads();
#pragma unroll
        for (int d = 0; d < depth; d += 8) {
            unsigned p[2][4], q[2][4];
            for (int i = 0; i < 2; i++) load_x4(p[i], &x[top + i * 16 + lane % 16][d + lane / 16 * 4]);
            for (int j = 0; j < 2; j++)
                load_x4(q[j], &y[left + j * 16 + lane / 16 * 8 + lane % 8][d + lane / 8 % 2 * 4]);
            for (int i = 0; i < 2; i++)
                for (int j = 0; j < 4; j++) mma_tf32(sum[i][j], p[i], q[j / 2][j % 2 * 2], q[j / 2][j % 2 * 2 + 1]);
        }
        __syncthreads();
    }
    store(sum, c, row + top, column + left, m, n);
}

// Eight independent chains of mma, nothing else.
extern "C" __global__ void mma_loop(float* out, int rounds) {
    const unsigned a[4] = {0x3C003C00 + threadIdx.x, 0x3C003800, 0x38003C00, 0x34003400};
    float sum[8][4] = {};
    for (int i = 0; i < rounds; i++)
#pragma unroll
        for (int j = 0; j < 8; j++) mma_f32<__half>(sum[j], a, 0x38003C00 + j, 0x3C003400);
    float total = 0.0f;
    for (int j = 0; j < 8; j++)
        for (int e = 0; e < 4; e++) total += sum[j][e];
    out[blockIdx.x * blockDim.x + threadIdx.x] = total;
}
