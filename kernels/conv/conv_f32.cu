// Convolution as implicit GEMM in float32 on FMA, bias and ReLU fused. A fully connected layer is the
// 1x1 convolution of its flattened input.
//
//   block (m, n, g):  output pixels [m * 64, +64) x filters [n * 64, +64) of group g
//   for k0 in 0 .. GEMM_K step 16:
//       A[16][64] = input pixels under tap k0 + kk, zero where padding or past the end      (shared)
//       B[16][64] = filter values at k0 + kk, zero past the end                             (shared)
//       each of 256 threads: 4 pixels x 4 filters += A[kk] * B[kk], kk in order
//   output = relu(sum + bias)
//
// Loading: a thread takes one tap kk = tid % 16 of four rows, so that 16 neighbouring threads read 16 neighbouring
// channels. Hazards: both barriers of the loop are needed, one before A and B are read, one before they are overwritten.
#include "../common/args.cuh"
#include "../ptx/max_nan.cuh"

namespace conv {
constexpr int BLOCK_M = 64, BLOCK_N = 64, BLOCK_K = 16;
constexpr int THREADS = 256, THREAD_M = 4, THREAD_N = 4;
// Four floats of padding keep rows 16-byte aligned for vector reads and spread the columns that are written over banks.
constexpr int PITCH = BLOCK_M + 4;
static_assert(BLOCK_M == BLOCK_N && THREADS == (BLOCK_M / THREAD_M) * (BLOCK_N / THREAD_N), "tile shape");
constexpr int ROWS = BLOCK_M * BLOCK_K / THREADS; // rows a thread loads of A, and of B

extern "C" __global__ void __launch_bounds__(THREADS) conv_f32(const ConvArgs args) {
    __shared__ __align__(16) float a_tile[BLOCK_K][PITCH];
    __shared__ __align__(16) float b_tile[BLOCK_K][PITCH];

    const int tid = threadIdx.x;
    const int group_c = args.c / args.groups, group_k = args.k / args.groups;
    const int gemm_m = args.n * args.p * args.q, gemm_k = args.r * args.s * group_c;
    const int block_m = blockIdx.x * BLOCK_M, block_n = blockIdx.y * BLOCK_N, group = blockIdx.z;

    const float* input = static_cast<const float*>(args.input);
    // The rows this thread loads: image, and top left corner of the window, which padding may put outside.
    const int load_k = tid % BLOCK_K, load_row = tid / BLOCK_K;
    const float* image[ROWS];
    int corner_h[ROWS], corner_w[ROWS];
    const int rows_b = group_k - block_n; // filters of the group that are left for this block
    const float* filter = static_cast<const float*>(args.filter) + (size_t(group) * group_k + block_n + load_row) * gemm_k;
#pragma unroll
    for (int i = 0; i < ROWS; i++) {
        const int row = load_row + i * (THREADS / BLOCK_K);
        const int m = block_m + row;
        const int pixel = m % (args.p * args.q);
        const size_t image_size = size_t(args.h) * args.w * args.c;
        image[i] = m < gemm_m ? input + m / (args.p * args.q) * image_size + group * group_c : nullptr;
        corner_h[i] = pixel / args.q * args.stride - args.padding;
        corner_w[i] = pixel % args.q * args.stride - args.padding;
    }

    float sum[THREAD_M][THREAD_N] = {};
    const int thread_m = tid / (BLOCK_N / THREAD_N) * THREAD_M, thread_n = tid % (BLOCK_N / THREAD_N) * THREAD_N;
    for (int k0 = 0; k0 < gemm_k; k0 += BLOCK_K) {
        const int k = k0 + load_k;
        const int tap = k / group_c, channel = k % group_c;
        const int tap_r = tap / args.s, tap_s = tap % args.s;
#pragma unroll
        for (int i = 0; i < ROWS; i++) {
            const int row = load_row + i * (THREADS / BLOCK_K);
            const int h = corner_h[i] + tap_r, w = corner_w[i] + tap_s;
            // Unsigned comparison: a negative coordinate is past the end.
            const bool inside = image[i] != nullptr && k < gemm_k && unsigned(h) < unsigned(args.h) &&
                                unsigned(w) < unsigned(args.w);
            a_tile[load_k][row] = inside ? __ldg(image[i] + (size_t(h) * args.w + w) * args.c + channel) : 0.0f;
            const bool filled = row < rows_b && k < gemm_k;
            b_tile[load_k][row] = filled ? __ldg(filter + size_t(row - load_row) * gemm_k + k) : 0.0f;
        }
        __syncthreads();
#pragma unroll
        for (int kk = 0; kk < BLOCK_K; kk++) {
            const float4 a = *reinterpret_cast<const float4*>(&a_tile[kk][thread_m]);
            const float4 b = *reinterpret_cast<const float4*>(&b_tile[kk][thread_n]);
            const float a_values[THREAD_M] = {a.x, a.y, a.z, a.w}, b_values[THREAD_N] = {b.x, b.y, b.z, b.w};
#pragma unroll
            for (int i = 0; i < THREAD_M; i++) {
#pragma unroll
                for (int j = 0; j < THREAD_N; j++) sum[i][j] = fmaf(a_values[i], b_values[j], sum[i][j]);
            }
        }
        __syncthreads();
    }

#pragma unroll
    for (int i = 0; i < THREAD_M; i++) {
        const int m = block_m + thread_m + i;
        if (m >= gemm_m) continue;
#pragma unroll
        for (int j = 0; j < THREAD_N; j++) {
            const int n = block_n + thread_n + j;
            if (n >= group_k) continue;
            const int k = group * group_k + n;
            const float value = sum[i][j] + __ldg(args.bias + k);
            static_cast<float*>(args.output)[size_t(m) * args.pitch + k] = args.relu ? max_nan(value, 0.0f) : value;
        }
    }
}
} // namespace conv
