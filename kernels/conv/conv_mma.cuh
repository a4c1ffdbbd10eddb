// Convolution as implicit GEMM on tensor cores: f16, bf16 or tf32 operands, f32 sums, bias and ReLU fused. A fully connected
// layer is the 1x1 convolution of its flattened input. conv_{f16,bf16,tf32}.cu instantiate it in several tile shapes.
//
//   block (m, n, group + groups * split): output pixels [m * BLOCK_M, +BLOCK_M) x filters [n * BLOCK_N, +BLOCK_N) of the
//                                         group, over the split's part of GEMM_K
//   for each step of 64 bytes of GEMM_K (32 elements; 16 of tf32), STAGES stages in flight:
//       A[BLOCK_M][64 B] = input pixels under the step's taps, zero where padding or past the end      (shared)
//       B[BLOCK_N][64 B] = filter values, zero past the end                                            (shared)
//       each of WARPS_M x WARPS_N warps: its part of the tile += A * B, in two steps of 32 bytes
//   output = relu(sum + bias), by way of a tile in shared memory so that stores are 16 bytes a thread; of several splits
//   the bare sums, float32, which reduce_splits adds up
//
// Shared layout: a row is four chunks of 16 bytes; chunk c of row r is kept at c ^ (r / 2 % 4), so that the eight rows of
// a matrix that ldmatrix reads together, and the eight chunks that eight threads copy together, lie in all 32 banks once.
// Hazards: the wait comes before the barrier, for it makes a thread's own copies visible to that thread alone; the one
// barrier of a step also keeps a stage from being filled again before every warp has read it.
#pragma once

#include <climits>

#include "../common/args.cuh"
#include "../common/element.cuh"
#include "../ptx/cp_async.cuh"
#include "../ptx/ldmatrix.cuh"
#include "../ptx/max_nan.cuh"
#include "../ptx/mma.cuh"

namespace conv {
constexpr int ROW_BYTES = 64, CHUNK_BYTES = 16, ROW_CHUNKS = ROW_BYTES / CHUNK_BYTES; // of a row of a stage
constexpr int MMA_M = 16, MMA_N = 8, MMA_STEPS = 2; // steps of 32 bytes that a row has

// Bytes from the start of a tile to a chunk of a row. Rows that are a multiple of eight apart have the same swizzle.
__device__ __forceinline__ int swizzled(int row, int chunk) { return row * ROW_BYTES + (chunk ^ (row / 2 % 4)) * CHUNK_BYTES; }

// T is the type of activations and filters; float computes in tf32. With VECTOR a group's channels are a multiple of a
// chunk's elements, and a chunk is 16 bytes of one pixel; without, its elements are gathered one by one.
template <typename T_, int BLOCK_M_, int BLOCK_N_, int WARPS_M_, int WARPS_N_, int STAGES_, bool VECTOR_>
struct Config {
    using T = T_;
    static constexpr int BLOCK_M = BLOCK_M_, BLOCK_N = BLOCK_N_, WARPS_M = WARPS_M_, WARPS_N = WARPS_N_, STAGES = STAGES_;
    static constexpr bool VECTOR = VECTOR_;
    static constexpr int CHUNK = CHUNK_BYTES / sizeof(T), BLOCK_K = ROW_BYTES / sizeof(T);
    static constexpr int THREADS = WARPS_M * WARPS_N * 32;
    static constexpr int WARP_M = BLOCK_M / WARPS_M, WARP_N = BLOCK_N / WARPS_N;
    static constexpr int PASS_ROWS = THREADS / ROW_CHUNKS; // rows that the block copies at once
    static constexpr int A_ROWS = BLOCK_M / PASS_ROWS, B_ROWS = BLOCK_N / PASS_ROWS; // rows a thread copies
    static constexpr int B_TILE = BLOCK_M * ROW_BYTES;                               // where B begins in a stage
    static constexpr int STAGE_BYTES = (BLOCK_M + BLOCK_N) * ROW_BYTES;
    // Rows of the output tile: eight elements more than they need spread the pairs that a warp writes at once over banks.
    static constexpr int OUT_PITCH = BLOCK_N + 8;
    // The output tile takes the stages' place, as many of its rows at a time as there is room for.
    static constexpr int SHARED_BYTES = STAGES * STAGE_BYTES;
    static_assert(BLOCK_M % PASS_ROWS == 0 && BLOCK_N % PASS_ROWS == 0 && PASS_ROWS % 8 == 0, "copies");
    static_assert(WARP_M % MMA_M == 0 && WARP_N % (2 * MMA_N) == 0, "warps");
    static_assert(SHARED_BYTES <= 48 * 1024, "static shared memory");
};

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
template <typename T>
struct Window {
    const T* corner; // of the group's first channel
    int h, w;
};

// Copies tiles of A and B to shared memory. A thread takes one chunk of every PASS_ROWS-th row.
template <typename C>
struct Loader {
    using T = typename C::T;
    const ConvArgs& args;
    int group_c, filter_pitch;
    int k, k_end; // the thread's first element of the next tiles; where the split's part ends
    Tap tap;
    Window<T> windows[C::A_ROWS];
    const T* filters; // at k of the thread's first row of B
    int rows_b;       // from that row to the group's end
    int target;       // the thread's first chunk in a tile

    __device__ __forceinline__ Loader(const ConvArgs& args, int block_m, int block_n, int group, int first_step, int steps)
        : args(args), group_c(args.c / args.groups) {
        const int gemm_k = args.r * args.s * group_c;
        filter_pitch = (gemm_k + C::CHUNK - 1) / C::CHUNK * C::CHUNK;
        const int chunk = threadIdx.x % ROW_CHUNKS, row = threadIdx.x / ROW_CHUNKS;
        target = swizzled(row, chunk);
        k = first_step * C::BLOCK_K + chunk * C::CHUNK;
        k_end = min(gemm_k, (first_step + steps) * C::BLOCK_K);
        tap = {k / group_c / args.s, k / group_c % args.s, k % group_c};
        const int group_k = args.k / args.groups;
        rows_b = group_k - block_n - row;
        filters = static_cast<const T*>(args.filter) + size_t(group * group_k + block_n + row) * filter_pitch + k;
        const int gemm_m = args.n * args.p * args.q;
#pragma unroll
        for (int i = 0; i < C::A_ROWS; i++) {
            const int m = block_m + row + i * C::PASS_ROWS;
            const int n = m / (args.p * args.q), pixel = m % (args.p * args.q);
            const int w = pixel % args.q * args.stride - args.padding;
            const int h = pixel / args.q * args.stride - args.padding;
            // Unsigned, for a row past the end may lie beyond what 31 bits count. It is not read.
            const int offset = int(((unsigned(n) * args.h + h) * args.w + w) * args.c + group * group_c);
            // A row past the end: no tap of it lies inside.
            windows[i] = {static_cast<const T*>(args.input) + offset, m < gemm_m ? h : INT_MIN / 2, w};
        }
    }

    // The thread's chunks of the next tiles, and the step to the ones after. Past the end there are only zeros.
    __device__ __forceinline__ void load(unsigned char* stage) {
        if constexpr (C::VECTOR) {
            copy_a(stage);
        } else {
            gather_a(stage);
        }
        const uint32_t b = __cvta_generic_to_shared(stage) + C::B_TILE + target;
#pragma unroll
        for (int i = 0; i < C::B_ROWS; i++) {
            // A chunk that begins before the end may run over it: filters are padded with zeros, or the next split's part
            // begins there with a whole chunk.
            const bool filled = i * C::PASS_ROWS < rows_b && k < k_end;
            cp_async_16(b + i * C::PASS_ROWS * ROW_BYTES, filters + size_t(i * C::PASS_ROWS) * filter_pitch, filled);
        }
        k += C::BLOCK_K;
        filters += C::BLOCK_K;
        tap.advance(C::BLOCK_K, args.s, group_c);
    }

    // Unsigned comparison: a negative coordinate is past the end.
    __device__ __forceinline__ bool inside(const Window<T>& window, const Tap& at) const {
        return unsigned(window.h + at.r) < unsigned(args.h) && unsigned(window.w + at.s) < unsigned(args.w);
    }

    // Elements from a window's corner to a tap.
    __device__ __forceinline__ int offset(const Tap& at) const { return (at.r * args.w + at.s) * args.c + at.channel; }

    __device__ __forceinline__ void copy_a(unsigned char* stage) const {
        const uint32_t a = __cvta_generic_to_shared(stage) + target;
        const int from_corner = offset(tap);
#pragma unroll
        for (int i = 0; i < C::A_ROWS; i++) {
            const bool filled = k < k_end && inside(windows[i], tap);
            cp_async_16(a + i * C::PASS_ROWS * ROW_BYTES, windows[i].corner + from_corner, filled);
        }
    }

    // The elements of a chunk may lie under different taps.
    __device__ __forceinline__ void gather_a(unsigned char* stage) const {
        Vector<T> chunks[C::A_ROWS];
        Tap at = tap;
#pragma unroll
        for (int j = 0; j < C::CHUNK; j++) {
            const int from_corner = offset(at);
#pragma unroll
            for (int i = 0; i < C::A_ROWS; i++) {
                const bool filled = k + j < k_end && inside(windows[i], at);
                chunks[i].element[j] = filled ? __ldg(windows[i].corner + from_corner) : T(0.0f);
            }
            at.advance(1, args.s, group_c);
        }
#pragma unroll
        for (int i = 0; i < C::A_ROWS; i++) {
            store_vector(reinterpret_cast<T*>(stage + target + i * C::PASS_ROWS * ROW_BYTES), chunks[i]);
        }
    }
};

// A warp's share of the block's sums: rows [row, +WARP_M), columns [column, +WARP_N) of the tile.
template <typename C>
struct WarpTile {
    static constexpr int ROWS = C::WARP_M / MMA_M, COLUMNS = C::WARP_N / MMA_N; // instructions
    int row, column;
    // Where this lane's rows of the operands lie in a stage, for each step of 32 bytes.
    int a_rows[MMA_STEPS], b_rows[MMA_STEPS];
    float sum[ROWS][COLUMNS][4];

    __device__ __forceinline__ WarpTile() : sum{} {
        const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
        row = warp % C::WARPS_M * C::WARP_M;
        column = warp / C::WARPS_M * C::WARP_N;
#pragma unroll
        for (int kk = 0; kk < MMA_STEPS; kk++) {
            a_rows[kk] = swizzled(row + lane % 16, kk * 2 + lane / 16);
            // Two operands at once: registers 0 and 1 are filters 0 to 7, registers 2 and 3 the next eight.
            b_rows[kk] = C::B_TILE + swizzled(column + lane / 16 * 8 + lane % 8, kk * 2 + lane / 8 % 2);
        }
    }

    // Adds the product of a stage's tiles.
    __device__ __forceinline__ void multiply(const unsigned char* stage) {
        using T = typename C::T;
        const uint32_t base = __cvta_generic_to_shared(stage);
#pragma unroll
        for (int kk = 0; kk < MMA_STEPS; kk++) {
            uint32_t a[ROWS][4], b[COLUMNS / 2][4];
#pragma unroll
            for (int i = 0; i < ROWS; i++) {
                ldmatrix_x4(a[i], base + a_rows[kk] + i * MMA_M * ROW_BYTES);
#pragma unroll
                for (int part = 0; part < 4; part++) a[i][part] = operand<T>(a[i][part]);
            }
#pragma unroll
            for (int j = 0; j < COLUMNS / 2; j++) ldmatrix_x4(b[j], base + b_rows[kk] + j * 2 * MMA_N * ROW_BYTES);
#pragma unroll
            for (int i = 0; i < ROWS; i++) {
#pragma unroll
                for (int j = 0; j < COLUMNS; j++) mma<T>(sum[i][j], a[i], b[j / 2][j % 2 * 2], b[j / 2][j % 2 * 2 + 1]);
            }
        }
    }

    // Writes rows [first_row, +rows) of the block's tile to shared memory; `finished` adds the bias and applies the ReLU.
    template <typename Out>
    __device__ __forceinline__ void write(const ConvArgs& args, Out* tile, int first_row, int rows, int block_n, int group,
                                          bool finished) const {
        const int group_k = args.k / args.groups, lane = threadIdx.x % 32;
        const float* bias = args.bias + group * group_k;
#pragma unroll
        for (int j = 0; j < COLUMNS; j++) {
            const int at = column + j * MMA_N + lane % 4 * 2, n = block_n + at;
            const float bias0 = finished && n < group_k ? __ldg(bias + n) : 0.0f;
            const float bias1 = finished && n + 1 < group_k ? __ldg(bias + n + 1) : 0.0f;
#pragma unroll
            for (int i = 0; i < ROWS; i++) {
#pragma unroll
                for (int half = 0; half < 2; half++) {
                    float value0 = sum[i][j][half * 2] + bias0, value1 = sum[i][j][half * 2 + 1] + bias1;
                    if (finished && args.relu) {
                        value0 = max_nan(value0, 0.0f);
                        value1 = max_nan(value1, 0.0f);
                    }
                    const int m = row + i * MMA_M + half * 8 + lane / 4 - first_row;
                    if (unsigned(m) < unsigned(rows)) store_pair(tile + m * C::OUT_PITCH + at, value0, value1);
                }
            }
        }
    }
};

// Writes the block's part of an (GEMM_M, K) output, bias and ReLU included where `finished`, by way of shared memory: 16
// bytes a thread where rows allow it.
template <typename C, typename Out>
__device__ __forceinline__ void store(const ConvArgs& args, Out* output, const WarpTile<C>& sums, unsigned char* shared,
                                      int block_m, int block_n, int group, bool finished) {
    constexpr int VECTOR = Vector<Out>::SIZE, ROW_VECTORS = C::BLOCK_N / VECTOR;
    constexpr int ROOM = C::SHARED_BYTES / (C::OUT_PITCH * int(sizeof(Out)));
    constexpr int TURN_ROWS = ROOM >= C::BLOCK_M ? C::BLOCK_M : C::BLOCK_M / 2;
    static_assert(ROOM >= TURN_ROWS, "half of the output tile fits");
    const int group_k = args.k / args.groups;
    // Then a vector is either inside or outside, and its address a multiple of 16.
    const bool aligned = group_k % VECTOR == 0;
    Out* tile = reinterpret_cast<Out*>(shared);
#pragma unroll 1
    for (int turn = 0; turn < C::BLOCK_M; turn += TURN_ROWS) {
        __syncthreads(); // what is in shared memory has been read
        sums.write(args, tile, turn, TURN_ROWS, block_n, group, finished);
        __syncthreads();
        const int rows = min(TURN_ROWS, args.n * args.p * args.q - block_m - turn);
        for (int index = threadIdx.x; index < rows * ROW_VECTORS; index += C::THREADS) {
            const int row = index / ROW_VECTORS, column = index % ROW_VECTORS * VECTOR;
            const int left = group_k - block_n - column; // filters from here to the group's end
            const Out* source = tile + row * C::OUT_PITCH + column;
            Out* target = output + size_t(block_m + turn + row) * args.k + group * group_k + block_n + column;
            if (aligned && left > 0) {
                *reinterpret_cast<uint4*>(target) = *reinterpret_cast<const uint4*>(source);
            } else {
#pragma unroll 1
                for (int i = 0; i < min(VECTOR, left); i++) target[i] = source[i];
            }
        }
    }
}

template <typename C>
__device__ __forceinline__ void convolve(const ConvArgs& args) {
    __shared__ __align__(128) unsigned char shared[C::SHARED_BYTES];
    const int block_m = blockIdx.x * C::BLOCK_M, block_n = blockIdx.y * C::BLOCK_N;
    const int group = blockIdx.z % args.groups, split = blockIdx.z / args.groups;

    const int all_steps = (args.r * args.s * (args.c / args.groups) + C::BLOCK_K - 1) / C::BLOCK_K;
    const int split_steps = (all_steps + args.splits - 1) / args.splits, first_step = split * split_steps;
    const int steps = min(split_steps, all_steps - first_step); // none, or less, for a split past the end
    Loader<C> loader(args, block_m, block_n, group, first_step, steps);
    WarpTile<C> sums;
#pragma unroll 1
    for (int stage = 0; stage < C::STAGES - 1; stage++) {
        loader.load(shared + stage * C::STAGE_BYTES);
        cp_async_commit();
    }
    int full = 0, empty = C::STAGES - 1; // the stage to read, and the one to fill
#pragma unroll 1
    for (int step = 0; step < steps; step++) {
        cp_async_wait<C::STAGES - 2>();
        __syncthreads();
        loader.load(shared + empty * C::STAGE_BYTES);
        cp_async_commit();
        sums.multiply(shared + full * C::STAGE_BYTES);
        full = full + 1 == C::STAGES ? 0 : full + 1;
        empty = empty + 1 == C::STAGES ? 0 : empty + 1;
    }

    // The last stages' zeros may still be on their way to where the output tile comes.
    cp_async_wait<0>();
    if (args.splits > 1) {
        float* partial = args.partial + size_t(split) * args.n * args.p * args.q * args.k;
        store(args, partial, sums, shared, block_m, block_n, group, false);
    } else if (args.wide_output || sizeof(typename C::T) == sizeof(float)) {
        store(args, static_cast<float*>(args.output), sums, shared, block_m, block_n, group, true);
    } else if constexpr (sizeof(typename C::T) < sizeof(float)) {
        store(args, static_cast<typename C::T*>(args.output), sums, shared, block_m, block_n, group, true);
    }
}
} // namespace conv

// Entry points of a module: NAME_MxN for each tile shape, and NAME_gather for any number of channels. BLOCKS are those that
// an SM holds at once, which bounds the registers.
#define CONV_KERNEL(ENTRY, T, BLOCK_M, BLOCK_N, STAGES, VECTOR, BLOCKS)                                                \
    extern "C" __global__ void __launch_bounds__(128, BLOCKS) ENTRY(const ConvArgs args) {                             \
        conv::convolve<conv::Config<T, BLOCK_M, BLOCK_N, 2, 2, STAGES, VECTOR>>(args);                                 \
    }
#define CONV_KERNELS(NAME, T)                                                                                          \
    CONV_KERNEL(NAME##_128x128, T, 128, 128, 3, true, 2)                                                               \
    CONV_KERNEL(NAME##_128x64, T, 128, 64, 3, true, 3)                                                                 \
    CONV_KERNEL(NAME##_64x64, T, 64, 64, 4, true, 4)                                                                   \
    CONV_KERNEL(NAME##_gather, T, 64, 64, 4, false, 4)
