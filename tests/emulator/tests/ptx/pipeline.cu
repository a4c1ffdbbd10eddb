// A matrix product as tensor-core kernels are written: stages filled by cp.async, ldmatrix, mma.
#include <cuda_fp16.h>
#include <stdint.h>

__device__ unsigned window(const void* pointer) { return static_cast<unsigned>(__cvta_generic_to_shared(pointer)); }

// 16 bytes, or zeros where they are outside.
__device__ void copy(void* to, const void* from, bool inside) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(window(to)), "l"(from), "r"(inside ? 16 : 0)
                 : "memory");
}

// c = a b, a m by k and b k by n, row by row; n and k are multiples of 8.
extern "C" __global__ void __launch_bounds__(128) pipeline_gemm(const __half* __restrict__ a, const __half* __restrict__ b,
                                                                float* __restrict__ c, int m, int n, int k) {
    constexpr int tile = 64, depth = 32, stages = 3;
    __shared__ __align__(16) __half x[stages][tile][depth + 8], y[stages][depth][tile + 8];
    const int row = blockIdx.y * tile, column = blockIdx.x * tile;
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, top = warp / 2 * 32, left = warp % 2 * 32;
    const int rounds = (k + depth - 1) / depth;
    auto fill = [&](int round) {
        if (round < rounds) {
            const int stage = round % stages, start = round * depth;
            for (int i = threadIdx.x; i < tile * depth / 8; i += 128) {
                const int r = i / (depth / 8), d = i % (depth / 8) * 8;
                copy(&x[stage][r][d], a + (row + r) * k + start + d, row + r < m && start + d < k);
            }
            for (int i = threadIdx.x; i < depth * tile / 8; i += 128) {
                const int d = i / (tile / 8), r = i % (tile / 8) * 8;
                copy(&y[stage][d][r], b + (start + d) * n + column + r, start + d < k && column + r < n);
            }
        }
        asm volatile("cp.async.commit_group;" ::: "memory");
    };
    for (int round = 0; round < stages - 1; round++) fill(round);
    float sum[2][4][4] = {};
    for (int round = 0; round < rounds; round++) {
        asm volatile("cp.async.wait_group %0;" ::"n"(stages - 2) : "memory");
        __syncthreads();
        fill(round + stages - 1);
        const int stage = round % stages;
#pragma unroll
        for (int d = 0; d < depth; d += 16) {
            unsigned p[2][4], q[2][4];
            for (int i = 0; i < 2; i++)
                asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                             : "=r"(p[i][0]), "=r"(p[i][1]), "=r"(p[i][2]), "=r"(p[i][3])
                             : "r"(window(&x[stage][top + i * 16 + lane % 16][d + lane / 16 * 8])));
            for (int j = 0; j < 2; j++)
                asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                             : "=r"(q[j][0]), "=r"(q[j][1]), "=r"(q[j][2]), "=r"(q[j][3])
                             : "r"(window(&y[stage][d + lane % 16][left + j * 16 + lane / 16 * 8])));
            for (int i = 0; i < 2; i++)
                for (int j = 0; j < 4; j++)
                    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
                                 "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                                 : "+f"(sum[i][j][0]), "+f"(sum[i][j][1]), "+f"(sum[i][j][2]), "+f"(sum[i][j][3])
                                 : "r"(p[i][0]), "r"(p[i][1]), "r"(p[i][2]), "r"(p[i][3]), "r"(q[j / 2][j % 2 * 2]),
                                   "r"(q[j / 2][j % 2 * 2 + 1]));
        }
    }
    for (int i = 0; i < 2; i++)
        for (int j = 0; j < 4; j++)
            for (int e = 0; e < 4; e++) {
                const int r = row + top + i * 16 + lane / 4 + e / 2 * 8, s = column + left + j * 8 + lane % 4 * 2 + e % 2;
                if (r < m && s < n) c[r * n + s] = sum[i][j][e];
            }
}
