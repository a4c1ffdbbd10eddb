// Convolution as implicit GEMM on tensor cores: f16 operands, f32 sums, bias and ReLU fused. A fully connected layer is
// the 1x1 convolution of its flattened input.
//
//   block (m, n, g):  output pixels [m * 128, +128) x filters [n * 64, +64) of group g
//   for k0 in 0 .. GEMM_K step 32, three stages in flight:
//       A[128][32] = input pixels under taps k0 .. k0 + 32, zero where padding or past the end      (shared)
//       B[64][32]  = filter values at k0 .. k0 + 32, zero past the end                              (shared)
//       each of 2 x 2 warps: 64 pixels x 32 filters += A * B, in steps of 16 taps
//   output = relu(sum + bias), by way of a tile in shared memory so that stores are 16 bytes a thread
//
// Shared layout: a row is 64 bytes, four chunks of eight f16; chunk c of row r is kept at c ^ (r / 2 % 4), so that the
// eight rows of a matrix that ldmatrix reads together, and the eight chunks that eight threads copy together, lie in all
// 32 banks once.
// Hazards: the wait comes before the barrier, for it makes a thread's own copies visible to that thread alone; the one
// barrier of a step also keeps a stage from being filled again before every warp has read it.
#include <climits>

#include "../common/args.cuh"
#include "../common/element.cuh"
#include "../ptx/cp_async.cuh"
#include "../ptx/ldmatrix.cuh"
#include "../ptx/max_nan.cuh"
#include "../ptx/mma.cuh"

namespace conv {
constexpr int BLOCK_M = 128, BLOCK_N = 64, BLOCK_K = 32, STAGES = 3;
constexpr int WARPS_M = 2, WARPS_N = 2, THREADS = WARPS_M * WARPS_N * 32;
constexpr int WARP_M = BLOCK_M / WARPS_M, WARP_N = BLOCK_N / WARPS_N;
constexpr int MMA_M = 16, MMA_N = 8, MMA_K = 16;
constexpr int CHUNK = 8; // f16 elements of a 16-byte copy
constexpr int ROW_CHUNKS = BLOCK_K / CHUNK, ROW_BYTES = BLOCK_K * 2;
constexpr int PASS_ROWS = THREADS / ROW_CHUNKS; // rows that the block copies at once
constexpr int A_ROWS = BLOCK_M / PASS_ROWS, B_ROWS = BLOCK_N / PASS_ROWS; // rows a thread copies
constexpr int B_TILE = BLOCK_M * ROW_BYTES;                               // where B begins in a stage
constexpr int STAGE_BYTES = (BLOCK_M + BLOCK_N) * ROW_BYTES;
// Rows of the output tile: eight elements more than they need spread the pairs that a warp writes at once over all banks.
constexpr int OUT_PITCH = BLOCK_N + 8;
constexpr int SHARED_BYTES = STAGES * STAGE_BYTES;
static_assert(SHARED_BYTES >= BLOCK_M * OUT_PITCH * int(sizeof(float)), "the output tile takes the stages' place");
static_assert(BLOCK_M % PASS_ROWS == 0 && BLOCK_N % PASS_ROWS == 0 && WARP_N % (2 * MMA_N) == 0, "tile shape");

// Bytes from the start of a tile to a chunk of a row. Rows that are a multiple of eight apart have the same swizzle.
__device__ __forceinline__ int swizzled(int row, int chunk) {
    static_assert(ROW_CHUNKS == 4 && PASS_ROWS % 8 == 0, "the swizzle is for rows of four chunks");
    return row * ROW_BYTES + (chunk ^ (row / 2 % 4)) * 16;
}

// A place in a filter: GEMM_K runs over (r, s, channel of the group), channels fastest.
struct Tap {
    int r, s, channel;

    __device__ __forceinline__ void advance(int by, int filter_s, int group_c) {
        channel += by;
#pragma unroll 1
        while (channel >= group_c) {
            channel -= group_c;
            if (++s == filter_s) {
                s = 0;
                r++;
            }
        }
    }
};

// A row of A: the corner of an output pixel's window, which padding may put outside the image.
struct Window {
    const __half* corner; // of the group's first channel
    int h, w;
};

// Copies tiles of A and B to shared memory. A thread takes one chunk of every PASS_ROWS-th row.
//
// CHANNELS is what divides the channels of a group: with 8, a chunk is 16 bytes of one pixel; with 1, its elements are
// gathered one by one.
template <int CHANNELS>
struct Loader {
    const ConvArgs& args;
    int group_c, gemm_k, filter_pitch;
    int k; // the thread's first element of the next tiles
    Tap tap;
    Window windows[A_ROWS];
    const __half* filters; // at k of the thread's first row of B
    int rows_b;            // from that row to the group's end
    int target;            // the thread's first chunk in a tile

    __device__ __forceinline__ Loader(const ConvArgs& args, int block_m, int block_n, int group)
        : args(args), group_c(args.c / args.groups), gemm_k(args.r * args.s * group_c),
          filter_pitch((gemm_k + CHUNK - 1) / CHUNK * CHUNK), tap{0, 0, 0} {
        const int chunk = threadIdx.x % ROW_CHUNKS, row = threadIdx.x / ROW_CHUNKS;
        target = swizzled(row, chunk);
        k = chunk * CHUNK;
        tap.advance(k, args.s, group_c);
        const int group_k = args.k / args.groups;
        rows_b = group_k - block_n - row;
        filters = static_cast<const __half*>(args.filter) + size_t(group * group_k + block_n + row) * filter_pitch + k;
        const int gemm_m = args.n * args.p * args.q;
#pragma unroll
        for (int i = 0; i < A_ROWS; i++) {
            const int m = block_m + row + i * PASS_ROWS;
            const int n = m / (args.p * args.q), pixel = m % (args.p * args.q);
            const int w = pixel % args.q * args.stride - args.padding;
            const int h = pixel / args.q * args.stride - args.padding;
            // Unsigned, for a row past the end may lie beyond what 31 bits count. It is not read.
            const int offset = int(((unsigned(n) * args.h + h) * args.w + w) * args.c + group * group_c);
            // A row past the end: no tap of it lies inside.
            windows[i] = {static_cast<const __half*>(args.input) + offset, m < gemm_m ? h : INT_MIN / 2, w};
        }
    }

    // The thread's chunks of the next tiles, and the step to the ones after. Past GEMM_K there are only zeros.
    __device__ __forceinline__ void load(unsigned char* stage) {
        if constexpr (CHANNELS == CHUNK) {
            copy_a(stage);
        } else {
            gather_a(stage);
        }
        const uint32_t b = __cvta_generic_to_shared(stage) + B_TILE + target;
#pragma unroll
        for (int i = 0; i < B_ROWS; i++) {
            const bool filled = i * PASS_ROWS < rows_b && k < filter_pitch;
            cp_async_16(b + i * PASS_ROWS * ROW_BYTES, filters + size_t(i * PASS_ROWS) * filter_pitch, filled);
        }
        k += BLOCK_K;
        filters += BLOCK_K;
        tap.advance(BLOCK_K, args.s, group_c);
    }

    // Unsigned comparison: a negative coordinate is past the end.
    __device__ __forceinline__ bool inside(const Window& window, const Tap& at) const {
        return unsigned(window.h + at.r) < unsigned(args.h) && unsigned(window.w + at.s) < unsigned(args.w);
    }

    // Elements from a window's corner to a tap.
    __device__ __forceinline__ int offset(const Tap& at) const { return (at.r * args.w + at.s) * args.c + at.channel; }

    __device__ __forceinline__ void copy_a(unsigned char* stage) const {
        const uint32_t a = __cvta_generic_to_shared(stage) + target;
        const int from_corner = offset(tap);
#pragma unroll
        for (int i = 0; i < A_ROWS; i++) {
            const bool filled = k < gemm_k && inside(windows[i], tap);
            cp_async_16(a + i * PASS_ROWS * ROW_BYTES, windows[i].corner + from_corner, filled);
        }
    }

    // The elements of a chunk may lie under different taps.
    __device__ __forceinline__ void gather_a(unsigned char* stage) const {
        uint32_t pairs[A_ROWS][CHUNK / 2];
        Tap at = tap;
#pragma unroll
        for (int j = 0; j < CHUNK; j++) {
            const int from_corner = offset(at);
#pragma unroll
            for (int i = 0; i < A_ROWS; i++) {
                uint32_t bits = 0;
                if (k + j < gemm_k && inside(windows[i], at)) {
                    bits = __ldg(reinterpret_cast<const unsigned short*>(windows[i].corner + from_corner));
                }
                pairs[i][j / 2] = j % 2 ? pairs[i][j / 2] | bits << 16 : bits;
            }
            at.advance(1, args.s, group_c);
        }
#pragma unroll
        for (int i = 0; i < A_ROWS; i++) {
            const uint4 chunk = make_uint4(pairs[i][0], pairs[i][1], pairs[i][2], pairs[i][3]);
            *reinterpret_cast<uint4*>(stage + target + i * PASS_ROWS * ROW_BYTES) = chunk;
        }
    }
};

// A warp's share of the block's sums: rows [row, +WARP_M), columns [column, +WARP_N) of the tile.
struct WarpTile {
    int row, column;
    // Where this lane's rows of the operands lie in a stage, for each step of 16 taps.
    int a_rows[BLOCK_K / MMA_K], b_rows[BLOCK_K / MMA_K];
    float sum[WARP_M / MMA_M][WARP_N / MMA_N][4];

    __device__ __forceinline__ WarpTile() : sum{} {
        const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
        row = warp % WARPS_M * WARP_M;
        column = warp / WARPS_M * WARP_N;
#pragma unroll
        for (int kk = 0; kk < BLOCK_K / MMA_K; kk++) {
            a_rows[kk] = swizzled(row + lane % 16, kk * 2 + lane / 16);
            // Two operands at once: registers 0 and 1 are filters 0 to 7, registers 2 and 3 the next eight.
            b_rows[kk] = B_TILE + swizzled(column + lane / 16 * 8 + lane % 8, kk * 2 + lane / 8 % 2);
        }
    }

    // Adds the product of a stage's tiles.
    __device__ __forceinline__ void multiply(const unsigned char* stage) {
        const uint32_t base = __cvta_generic_to_shared(stage);
#pragma unroll
        for (int kk = 0; kk < BLOCK_K / MMA_K; kk++) {
            uint32_t a[WARP_M / MMA_M][4], b[WARP_N / (2 * MMA_N)][4];
#pragma unroll
            for (int i = 0; i < WARP_M / MMA_M; i++) ldmatrix_x4(a[i], base + a_rows[kk] + i * MMA_M * ROW_BYTES);
#pragma unroll
            for (int j = 0; j < WARP_N / (2 * MMA_N); j++) {
                ldmatrix_x4(b[j], base + b_rows[kk] + j * 2 * MMA_N * ROW_BYTES);
            }
#pragma unroll
            for (int i = 0; i < WARP_M / MMA_M; i++) {
#pragma unroll
                for (int j = 0; j < WARP_N / MMA_N; j++) {
                    mma_m16n8k16(sum[i][j], a[i], b[j / 2][j % 2 * 2], b[j / 2][j % 2 * 2 + 1]);
                }
            }
        }
    }

    // Adds the bias, applies the ReLU and writes to the block's output tile in shared memory.
    template <typename Out>
    __device__ __forceinline__ void finish(const ConvArgs& args, Out* tile, int block_n, int group) const {
        const int group_k = args.k / args.groups, lane = threadIdx.x % 32;
        const float* bias = args.bias + group * group_k;
        Out* first = tile + (row + lane / 4) * OUT_PITCH + column + lane % 4 * 2;
#pragma unroll
        for (int j = 0; j < WARP_N / MMA_N; j++) {
            const int n = block_n + column + j * MMA_N + lane % 4 * 2;
            const float bias0 = n < group_k ? __ldg(bias + n) : 0.0f, bias1 = n + 1 < group_k ? __ldg(bias + n + 1) : 0.0f;
#pragma unroll
            for (int i = 0; i < WARP_M / MMA_M; i++) {
#pragma unroll
                for (int half = 0; half < 2; half++) {
                    float value0 = sum[i][j][half * 2] + bias0, value1 = sum[i][j][half * 2 + 1] + bias1;
                    if (args.relu) {
                        value0 = max_nan(value0, 0.0f);
                        value1 = max_nan(value1, 0.0f);
                    }
                    store_pair(first + (i * MMA_M + half * 8) * OUT_PITCH + j * MMA_N, value0, value1);
                }
            }
        }
    }
};

// Copies the part of the block's output tile that lies within the output, 16 bytes a thread where rows allow it.
template <typename Out>
__device__ __forceinline__ void store_tile(const ConvArgs& args, const Out* tile, int block_m, int block_n, int group) {
    constexpr int VECTOR = 16 / sizeof(Out), ROW_VECTORS = BLOCK_N / VECTOR;
    const int rows = min(BLOCK_M, args.n * args.p * args.q - block_m), group_k = args.k / args.groups;
    // Then a vector is either inside or outside, and its address a multiple of 16.
    const bool aligned = group_k % VECTOR == 0;
    for (int index = threadIdx.x; index < rows * ROW_VECTORS; index += THREADS) {
        const int row = index / ROW_VECTORS, column = index % ROW_VECTORS * VECTOR;
        const int left = group_k - block_n - column; // filters from here to the group's end
        const Out* source = tile + row * OUT_PITCH + column;
        Out* target = static_cast<Out*>(args.output) + size_t(block_m + row) * args.k + group * group_k + block_n + column;
        if (aligned && left > 0) {
            *reinterpret_cast<uint4*>(target) = *reinterpret_cast<const uint4*>(source);
        } else {
#pragma unroll 1
            for (int i = 0; i < min(VECTOR, left); i++) target[i] = source[i];
        }
    }
}

template <int CHANNELS>
__device__ __forceinline__ void convolve(const ConvArgs& args) {
    // The stages, then the output tile.
    __shared__ __align__(128) unsigned char shared[SHARED_BYTES];
    const int block_m = blockIdx.x * BLOCK_M, block_n = blockIdx.y * BLOCK_N, group = blockIdx.z;

    Loader<CHANNELS> loader(args, block_m, block_n, group);
    WarpTile tile;
#pragma unroll 1
    for (int stage = 0; stage < STAGES - 1; stage++) {
        loader.load(shared + stage * STAGE_BYTES);
        cp_async_commit();
    }
    const int steps = (loader.gemm_k + BLOCK_K - 1) / BLOCK_K;
    int full = 0, empty = STAGES - 1; // the stage to read, and the one to fill
#pragma unroll 1
    for (int step = 0; step < steps; step++) {
        cp_async_wait<STAGES - 2>();
        __syncthreads();
        loader.load(shared + empty * STAGE_BYTES);
        cp_async_commit();
        tile.multiply(shared + full * STAGE_BYTES);
        full = full + 1 == STAGES ? 0 : full + 1;
        empty = empty + 1 == STAGES ? 0 : empty + 1;
    }

    // The last stages' zeros may still be on their way, and other warps at work on theirs.
    cp_async_wait<0>();
    __syncthreads();
    if (args.wide_output) {
        float* output = reinterpret_cast<float*>(shared);
        tile.finish(args, output, block_n, group);
        __syncthreads();
        store_tile(args, output, block_m, block_n, group);
    } else {
        __half* output = reinterpret_cast<__half*>(shared);
        tile.finish(args, output, block_n, group);
        __syncthreads();
        store_tile(args, output, block_m, block_n, group);
    }
}

// The channels of a group are a multiple of 8.
extern "C" __global__ void __launch_bounds__(THREADS) conv_f16(const ConvArgs args) { convolve<8>(args); }

// Any number of channels.
extern "C" __global__ void __launch_bounds__(THREADS) conv_f16_gather(const ConvArgs args) { convolve<1>(args); }
} // namespace conv
