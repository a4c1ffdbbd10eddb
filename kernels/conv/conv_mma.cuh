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
//   the bare sums, float32, which reduce_splits adds up; or the 3x3 max pool of that tile, which is then one whole image's
//
// Shared layout: a row is four chunks of 16 bytes; chunk c of row r is kept at c ^ (r / 2 % 4), so that the eight rows of
// a matrix that ldmatrix reads together, and the eight chunks that eight threads copy together, lie in all 32 banks once.
// Hazards: the wait comes before the barrier, for it makes a thread's own copies visible to that thread alone; the one
// barrier of a step also keeps a stage from being filled again before every warp has read it.
#pragma once

#include <climits>

#include "../common/args.cuh"
#include "../common/element.cuh"
#include "../common/maximum.cuh"
#include "../ptx/cp_async.cuh"
#include "../ptx/ldmatrix.cuh"
#include "../ptx/max_nan.cuh"
#include "../ptx/mma.cuh"

namespace conv {
constexpr int ROW_BYTES = 64, CHUNK_BYTES = 16, ROW_CHUNKS = ROW_BYTES / CHUNK_BYTES; // of a row of a stage
constexpr int MMA_M = 16, MMA_N = 8, STEP_BYTES = 32; // rows and columns of an instruction, and bytes of each

// Elements of a row of the output tile beyond what it needs: they spread the pairs that a warp writes at once over banks.
constexpr int PADDING = 8;

// Bytes from the start of a tile to a chunk of a row. Rows that are a multiple of eight apart have the same swizzle.
__device__ __forceinline__ int swizzled(int row, int chunk) { return row * ROW_BYTES + (chunk ^ (row / 2 % 4)) * CHUNK_BYTES; }

// VECTOR: a group's channels are a multiple of a chunk's elements, and a chunk is 16 bytes of one pixel. GATHER: its elements
// are gathered one by one. POOLED: as VECTOR, but a block's rows are the pixels of one image, and its output is pooled.
enum Kind { VECTOR, GATHER, POOLED };

// T is the type of activations and filters; float computes in tf32.
template <typename T_, int BLOCK_M_, int BLOCK_N_, int WARPS_M_, int WARPS_N_, int STAGES_, Kind KIND_>
struct Config {
    using T = T_;
    static constexpr int BLOCK_M = BLOCK_M_, BLOCK_N = BLOCK_N_, WARPS_M = WARPS_M_, WARPS_N = WARPS_N_, STAGES = STAGES_;
    static constexpr Kind KIND = KIND_;
    static constexpr int CHUNK = CHUNK_BYTES / sizeof(T), BLOCK_K = ROW_BYTES / sizeof(T);
    static constexpr int THREADS = WARPS_M * WARPS_N * 32;
    static constexpr int WARP_M = BLOCK_M / WARPS_M, WARP_N = BLOCK_N / WARPS_N;
    static constexpr int PASS_ROWS = THREADS / ROW_CHUNKS; // rows that the block copies at once
    static constexpr int A_ROWS = BLOCK_M / PASS_ROWS, B_ROWS = BLOCK_N / PASS_ROWS; // rows a thread copies
    static constexpr int B_TILE = BLOCK_M * ROW_BYTES;                               // where B begins in a stage
    static constexpr int STAGE_BYTES = (BLOCK_M + BLOCK_N) * ROW_BYTES;
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
struct Window {
    unsigned offset; // elements from the input's first to the group's first channel of the corner
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
    Window windows[C::A_ROWS];
    const T* filters; // at k of the thread's first row of B
    int rows_b;       // from that row to the group's end
    int target;       // the thread's first chunk in a tile

    __device__ __forceinline__ Loader(const ConvArgs& args, int block_m, int end_m, int block_n, int group, int first_step,
                                      int steps)
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
#pragma unroll
        for (int i = 0; i < C::A_ROWS; i++) {
            const int m = block_m + row + i * C::PASS_ROWS;
            const int n = m / (args.p * args.q), pixel = m % (args.p * args.q);
            const int w = pixel % args.q * args.stride - args.padding;
            const int h = pixel / args.q * args.stride - args.padding;
            // Unsigned, for a row past the end may lie beyond what 31 bits count, and a corner before the input. Neither is
            // read.
            windows[i].offset = ((unsigned(n) * args.h + h) * args.w + w) * args.c + group * group_c;
            // A row past the end: no tap of it lies inside.
            windows[i].h = m < end_m ? h : INT_MIN / 2;
            windows[i].w = w;
        }
    }

    // The thread's chunks of the next tiles, and the step to the ones after. Past the end there are only zeros.
    __device__ __forceinline__ void load(unsigned char* stage) {
        if constexpr (C::KIND == GATHER) {
            gather_a(stage);
        } else {
            copy_a(stage);
        }
        const uint32_t b = __cvta_generic_to_shared(stage) + C::B_TILE + target;
#pragma unroll
        for (int i = 0; i < C::B_ROWS; i++) {
            // A chunk that begins before the end may run over it: filters are padded with zeros, or the next split's part
            // begins there with a whole chunk.
            const bool filled = i * C::PASS_ROWS < rows_b && before_end();
            cp_async_16(b + i * C::PASS_ROWS * ROW_BYTES, filters + size_t(i * C::PASS_ROWS) * filter_pitch, filled);
        }
        k += C::BLOCK_K;
        filters += C::BLOCK_K;
        tap.advance(C::BLOCK_K, args.s, group_c);
    }

    // Whether the thread's chunk of the next tiles begins before the end. Without splits its tap tells.
    __device__ __forceinline__ bool before_end() const { return C::KIND == POOLED ? tap.r < args.r : k < k_end; }

    // Unsigned comparison: a negative coordinate is past the end.
    __device__ __forceinline__ bool inside(const Window& window, const Tap& at) const {
        return unsigned(window.h + at.r) < unsigned(args.h) && unsigned(window.w + at.s) < unsigned(args.w);
    }

    // `from_corner` elements after a window's corner. Sums that wrap on the way end where they should.
    __device__ __forceinline__ const T* address(const Window& window, int from_corner) const {
        return static_cast<const T*>(args.input) + int(window.offset + from_corner);
    }

    // Elements from a window's corner to a tap.
    __device__ __forceinline__ int offset(const Tap& at) const { return (at.r * args.w + at.s) * args.c + at.channel; }

    __device__ __forceinline__ void copy_a(unsigned char* stage) const {
        const uint32_t a = __cvta_generic_to_shared(stage) + target;
        const int from_corner = offset(tap);
#pragma unroll
        for (int i = 0; i < C::A_ROWS; i++) {
            const bool filled = before_end() && inside(windows[i], tap);
            cp_async_16(a + i * C::PASS_ROWS * ROW_BYTES, address(windows[i], from_corner), filled);
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
                chunks[i].element[j] = filled ? __ldg(address(windows[i], from_corner)) : T(0.0f);
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
    // Where this lane's rows of the operands lie in a stage, in the first step of 32 bytes; the other is swizzled likewise,
    // and differs in the bit of that weight.
    int a_row, b_row;
    float sum[ROWS][COLUMNS][4];

    __device__ __forceinline__ WarpTile() : sum{} {
        const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
        row = warp % C::WARPS_M * C::WARP_M;
        column = warp / C::WARPS_M * C::WARP_N;
        a_row = swizzled(row + lane % 16, lane / 16);
        // Two operands at once: registers 0 and 1 are filters 0 to 7, registers 2 and 3 the next eight.
        b_row = C::B_TILE + swizzled(column + lane / 16 * 8 + lane % 8, lane / 8 % 2);
    }

    // Adds the product of a stage's tiles.
    __device__ __forceinline__ void multiply(const unsigned char* stage) {
        using T = typename C::T;
        const uint32_t base = __cvta_generic_to_shared(stage);
#pragma unroll
        for (int kk = 0; kk < ROW_BYTES / STEP_BYTES; kk++) {
            const uint32_t a_base = base + (a_row ^ kk * STEP_BYTES), b_base = base + (b_row ^ kk * STEP_BYTES);
            uint32_t b[COLUMNS / 2][4];
#pragma unroll
            for (int j = 0; j < COLUMNS / 2; j++) ldmatrix_x4(b[j], b_base + j * 2 * MMA_N * ROW_BYTES);
#pragma unroll
            for (int i = 0; i < ROWS; i++) {
                uint32_t a[4];
                ldmatrix_x4(a, a_base + i * MMA_M * ROW_BYTES);
#pragma unroll
                for (int part = 0; part < 4; part++) a[part] = operand<T>(a[part]);
#pragma unroll
                for (int j = 0; j < COLUMNS; j++) mma<T>(sum[i][j], a, b[j / 2][j % 2 * 2], b[j / 2][j % 2 * 2 + 1]);
            }
        }
    }

    // Writes rows [first_row, +TILE_ROWS) and columns [first_column, +TILE_COLUMNS) of the block's tile to shared memory, in
    // rows of TILE_COLUMNS + PADDING; `finished` adds the bias and applies the ReLU.
    template <int TILE_ROWS, int TILE_COLUMNS, typename Out>
    __device__ __forceinline__ void write(const ConvArgs& args, Out* tile, int first_row, int first_column, int block_n,
                                          int group, bool finished) const {
        const int group_k = args.k / args.groups, lane = threadIdx.x % 32;
        const float* bias = args.bias + group * group_k;
#pragma unroll
        for (int j = 0; j < COLUMNS; j++) {
            const int at = column + j * MMA_N + lane % 4 * 2, n = block_n + at;
            // One turn has all columns: the comparison is for others.
            if (TILE_COLUMNS < C::BLOCK_N && unsigned(at - first_column) >= unsigned(TILE_COLUMNS)) continue;
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
                    Out* target = tile + m * (TILE_COLUMNS + PADDING) + at - first_column;
                    if (unsigned(m) < unsigned(TILE_ROWS)) store_pair(target, value0, value1);
                }
            }
        }
    }
};

// Writes the block's part of an (GEMM_M, K) output with rows at `pitch`, bias and ReLU included where `finished`, by way of
// shared memory: 16 bytes a thread where rows allow it.
template <typename C, typename Out>
__device__ __forceinline__ void store(const ConvArgs& args, Out* output, const WarpTile<C>& sums, unsigned char* shared,
                                      int block_m, int block_n, int group, int pitch, bool finished) {
    constexpr int VECTOR = Vector<Out>::SIZE, ROW_VECTORS = C::BLOCK_N / VECTOR;
    constexpr int PITCH = C::BLOCK_N + PADDING, ROOM = C::SHARED_BYTES / (PITCH * int(sizeof(Out)));
    constexpr int TURN_ROWS = ROOM >= C::BLOCK_M ? C::BLOCK_M : C::BLOCK_M / 2;
    static_assert(ROOM >= TURN_ROWS, "half of the output tile fits");
    const int group_k = args.k / args.groups;
    // Then a vector is either inside or outside, and its address a multiple of 16, since the pitch is a multiple of group_k.
    const bool aligned = group_k % VECTOR == 0;
    Out* tile = reinterpret_cast<Out*>(shared);
#pragma unroll 1
    for (int turn = 0; turn < C::BLOCK_M; turn += TURN_ROWS) {
        __syncthreads(); // what is in shared memory has been read
        sums.template write<TURN_ROWS, C::BLOCK_N>(args, tile, turn, 0, block_n, group, finished);
        __syncthreads();
        const int rows = min(TURN_ROWS, args.n * args.p * args.q - block_m - turn);
        for (int index = threadIdx.x; index < rows * ROW_VECTORS; index += C::THREADS) {
            const int row = index / ROW_VECTORS, column = index % ROW_VECTORS * VECTOR;
            const int left = group_k - block_n - column; // filters from here to the group's end
            const Out* source = tile + row * PITCH + column;
            Out* target = output + size_t(block_m + turn + row) * pitch + group * group_k + block_n + column;
            if (aligned && left > 0) {
                *reinterpret_cast<uint4*>(target) = *reinterpret_cast<const uint4*>(source);
            } else {
#pragma unroll 1
                for (int i = 0; i < min(VECTOR, left); i++) target[i] = source[i];
            }
        }
    }
}

// Writes the block's part of the (N, PP, PQ, K) output of a 3x3 max pool of stride 2 over an image that is all in the block's
// rows, bias and ReLU included: some of the columns at a time, all rows of them in shared memory. Groups of filters are whole
// vectors.
template <typename C>
__device__ __forceinline__ void store_pooled(const ConvArgs& args, const WarpTile<C>& sums, unsigned char* shared, int image,
                                             int block_n, int group) {
    using T = typename C::T;
    constexpr int VECTOR = Vector<T>::SIZE, TURN_COLUMNS = 128 / sizeof(T), TURN_VECTORS = TURN_COLUMNS / VECTOR;
    constexpr int PITCH = TURN_COLUMNS + PADDING, KERNEL = 3, STRIDE = 2;
    static_assert(C::BLOCK_M * PITCH * sizeof(T) <= C::SHARED_BYTES && C::BLOCK_N % TURN_COLUMNS == 0, "turns");
    const int group_k = args.k / args.groups;
    const int p_count = (args.p - KERNEL) / STRIDE + 1, q_count = (args.q - KERNEL) / STRIDE + 1;
    T* tile = reinterpret_cast<T*>(shared);
    T* output = static_cast<T*>(args.output) + size_t(image) * p_count * q_count * args.pitch + group * group_k + block_n;
#pragma unroll 1
    for (int turn = 0; turn < C::BLOCK_N; turn += TURN_COLUMNS) {
        __syncthreads(); // what is in shared memory has been read
        sums.template write<C::BLOCK_M, TURN_COLUMNS>(args, tile, 0, turn, block_n, group, true);
        __syncthreads();
#pragma unroll 1
        for (int index = threadIdx.x; index < p_count * q_count * TURN_VECTORS; index += C::THREADS) {
            const int column = index % TURN_VECTORS * VECTOR, pixel = index / TURN_VECTORS;
            const T* corner = tile + (pixel / q_count * args.q + pixel % q_count) * STRIDE * PITCH + column;
            Maximum<T, VECTOR> maximum;
#pragma unroll 1
            for (int r = 0; r < KERNEL; r++) {
#pragma unroll
                for (int s = 0; s < KERNEL; s++) {
                    maximum.take(load_shared_vector(corner + (r * args.q + s) * PITCH));
                }
            }
            if (block_n + turn + column < group_k) {
                store_vector(output + size_t(pixel) * args.pitch + turn + column, maximum.stored());
            }
        }
    }
}

template <typename C>
__device__ __forceinline__ void convolve(const ConvArgs& args) {
    __shared__ __align__(128) unsigned char shared[C::SHARED_BYTES];
    // Pooled, a block is as many rows as an image has pixels.
    const int pixels = args.p * args.q, block_rows = C::KIND == POOLED ? pixels : C::BLOCK_M;
    const int block_m = blockIdx.x * block_rows, block_n = blockIdx.y * C::BLOCK_N;
    const int end_m = C::KIND == POOLED ? block_m + pixels : args.n * pixels;
    const int group = blockIdx.z % args.groups, split = blockIdx.z / args.groups;

    const int all_steps = (args.r * args.s * (args.c / args.groups) + C::BLOCK_K - 1) / C::BLOCK_K;
    const int split_steps = (all_steps + args.splits - 1) / args.splits, first_step = split * split_steps;
    const int steps = min(split_steps, all_steps - first_step); // none, or less, for a split past the end
    Loader<C> loader(args, block_m, end_m, block_n, group, first_step, steps);
    WarpTile<C> sums;
#pragma unroll 1
    for (int stage = 0; stage < C::STAGES - 1; stage++) {
        loader.load(shared + stage * C::STAGE_BYTES);
        cp_async_commit();
    }
    int full = 0; // the stage to read
#pragma unroll 1
    for (int step = 0; step < steps; step++) {
        cp_async_wait<C::STAGES - 2>();
        __syncthreads();
        const int empty = full == 0 ? C::STAGES - 1 : full - 1; // the one that was read last
        loader.load(shared + empty * C::STAGE_BYTES);
        cp_async_commit();
        sums.multiply(shared + full * C::STAGE_BYTES);
        full = full + 1 == C::STAGES ? 0 : full + 1;
    }

    // The last stages' zeros may still be on their way to where the output tile comes.
    cp_async_wait<0>();
    if constexpr (C::KIND == POOLED) {
        store_pooled(args, sums, shared, blockIdx.x, block_n, group);
    } else if (args.splits > 1) {
        float* partial = args.partial + size_t(split) * args.n * args.p * args.q * args.k;
        store(args, partial, sums, shared, block_m, block_n, group, args.k, false);
    } else if (args.wide_output || sizeof(typename C::T) == sizeof(float)) {
        store(args, static_cast<float*>(args.output), sums, shared, block_m, block_n, group, args.pitch, true);
    } else if constexpr (sizeof(typename C::T) < sizeof(float)) {
        store(args, static_cast<typename C::T*>(args.output), sums, shared, block_m, block_n, group, args.pitch, true);
    }
}
} // namespace conv

// Entry points of a module: NAME_MxN for each tile shape, NAME_gather for any number of channels, and NAME_pool. BLOCKS are
// those that an SM holds at once, which bounds the registers.
#define CONV_KERNEL(ENTRY, T, BLOCK_M, BLOCK_N, WARPS_M, WARPS_N, STAGES, KIND, BLOCKS)                                \
    extern "C" __global__ void __launch_bounds__(WARPS_M * WARPS_N * 32, BLOCKS) ENTRY(const ConvArgs args) {          \
        conv::convolve<conv::Config<T, BLOCK_M, BLOCK_N, WARPS_M, WARPS_N, STAGES, conv::KIND>>(args);                 \
    }
#define CONV_KERNELS(NAME, T)                                                                                          \
    CONV_KERNEL(NAME##_128x128, T, 128, 128, 2, 2, 3, VECTOR, 2)                                                       \
    CONV_KERNEL(NAME##_128x64, T, 128, 64, 2, 1, 3, VECTOR, 4)                                                         \
    CONV_KERNEL(NAME##_64x64, T, 64, 64, 2, 2, 4, VECTOR, 4)                                                           \
    CONV_KERNEL(NAME##_gather, T, 64, 64, 2, 2, 4, GATHER, 4)                                                          \
    CONV_KERNEL(NAME##_pool, T, 192, 128, 2, 2, 2, POOLED, 2)
