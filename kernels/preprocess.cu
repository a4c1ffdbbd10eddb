// uint8 RGB pixels to the network input: (pixel / divisor - mean) / std, each operation rounded to nearest, bit for bit
// what the CPU computes.
#include "common/args.cuh"
#include "common/element.cuh"
#include "common/grid.cuh"
#include "ptx/cp_async.cuh"

// Network channel `channel` of a pixel, from the byte of its colour.
template <typename Args>
__device__ __forceinline__ float normalised(const Args& args, int byte, int channel) {
    const float mean = channel == 0 ? args.mean[0] : channel == 1 ? args.mean[1] : args.mean[2];
    const float std = channel == 0 ? args.std[0] : channel == 1 ? args.std[1] : args.std[2];
    return __fdiv_rn(__fsub_rn(__fdiv_rn(static_cast<float>(byte), args.divisor), mean), std);
}

// Which of a pixel's three bytes that is.
template <typename Args>
__device__ __forceinline__ int colour(const Args& args, int channel) {
    return args.bgr ? 2 - channel : channel;
}

// A thread an element.
template <typename T>
__device__ void preprocess(const PreprocessArgs& args) {
    const long long count = args.count * 3;
    for (long long index = grid_thread(); index < count; index += grid_threads()) {
        const int channel = static_cast<int>(index % 3);
        const uint8_t byte = __ldg(args.pixels + (index - channel) + colour(args, channel));
        store_element(static_cast<T*>(args.output) + index, normalised(args, byte, channel));
    }
}

extern "C" __global__ void __launch_bounds__(256) preprocess_f32(const PreprocessArgs args) { preprocess<float>(args); }
extern "C" __global__ void __launch_bounds__(256) preprocess_f16(const PreprocessArgs args) {
    preprocess<__half>(args);
}
extern "C" __global__ void __launch_bounds__(256) preprocess_bf16(const PreprocessArgs args) {
    preprocess<__nv_bfloat16>(args);
}

// The same, and blocks of BLOCK x BLOCK pixels laid out as the channels of one: a convolution whose stride is the
// block's side then has stride 1, a filter of a block's side less, and channels that tensor cores can take.
namespace space_to_depth {
constexpr int THREADS = 256;
constexpr int BLOCK = 4, ROW = BLOCK * 3; // pixels of a block's side; bytes, and elements, of a row of it
constexpr int TILE = THREADS / BLOCK;     // blocks next to each other: a thread has one row of one of them
constexpr int CHUNK = 16;                 // bytes
// The chunks that a tile's row of pixels lies in where it begins with the last byte of one.
constexpr int CHUNKS = (CHUNK - 1 + TILE * ROW + CHUNK - 1) / CHUNK;
static_assert(CHUNKS <= TILE, "the threads of a row copy a chunk each");

template <typename T>
__device__ void space_to_depth(const SpaceToDepthArgs& args) {
    constexpr int SIZE = Vector<T>::SIZE, VECTORS = BLOCK * ROW / SIZE; // of a block
    constexpr int PITCH = BLOCK * ROW + SIZE; // elements: a vector more than a block has, so that banks differ
    __shared__ T table[3][256];               // what each byte becomes
    __shared__ alignas(CHUNK) uint8_t pixels[BLOCK][CHUNKS * CHUNK];
    __shared__ alignas(16) T result[TILE * PITCH];
    const int tid = threadIdx.x, row = tid / TILE, place = tid % TILE;
    for (int i = tid; i < 3 * 256; i += THREADS) {
        store_element(&table[i / 256][i % 256], normalised(args, i % 256, i / 256));
    }
    const long long pixel_bytes = static_cast<long long>(args.n) * args.h * args.w * 3;
    const unsigned columns = (args.wb + TILE - 1) / TILE, tiles = args.n * args.hb * columns;
    for (unsigned tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
        const int block_row = tile / columns, first = tile % columns * TILE; // block_row counts through all images
        const int blocks = min(TILE, args.wb - first);
        // The first pixel of this thread's row of the tile; it may lie in the padding.
        const int h = block_row % args.hb * BLOCK - args.padding + row, w = first * BLOCK - args.padding;
        const bool row_inside = unsigned(h) < unsigned(args.h); // unsigned: a negative coordinate is past the end
        const long long begin = ((static_cast<long long>(block_row / args.hb) * args.h + h) * args.w + w) * 3;
        const int before = static_cast<int>(begin & CHUNK - 1); // bytes of its chunk that come before it
        if (place * CHUNK < before + blocks * ROW) {
            // Chunks may begin before the first image, and the last one may end past the pixels.
            const long long at = begin - before + place * CHUNK, rest = pixel_bytes - at;
            const int bytes = row_inside && at >= 0 && rest > 0 ? static_cast<int>(min(rest, 16ll)) : 0;
            const void* target = &pixels[row][place * CHUNK];
            cp_async_up_to_16(static_cast<uint32_t>(__cvta_generic_to_shared(target)), args.pixels + at, bytes);
        }
        cp_async_commit();
        cp_async_wait<0>();
        __syncthreads();
        if (place < blocks) {
            const uint8_t* rgb = &pixels[row][before + place * ROW];
            alignas(uint2) T elements[ROW];
#pragma unroll
            for (int i = 0; i < ROW; i++) {
                const int channel = i % 3;
                const bool inside = row_inside && unsigned(w + place * BLOCK + i / 3) < unsigned(args.w);
                const T value = table[channel][rgb[i - channel + colour(args, channel)]];
                elements[i] = inside ? value : static_cast<T>(0.0f);
            }
            uint2* target = reinterpret_cast<uint2*>(result + place * PITCH + row * ROW);
#pragma unroll
            for (int i = 0; i < sizeof elements / sizeof(uint2); i++) {
                target[i] = reinterpret_cast<const uint2*>(elements)[i];
            }
        }
        __syncthreads();
        T* output = static_cast<T*>(args.output) +
                    (static_cast<long long>(block_row) * args.wb + first) * (BLOCK * ROW);
        for (int i = tid; i < blocks * VECTORS; i += THREADS) {
            store_vector(output + i * SIZE, load_shared_vector(result + i / VECTORS * PITCH + i % VECTORS * SIZE));
        }
    }
}

#define SPACE_TO_DEPTH_KERNEL(NAME, T)                                                                                 \
    extern "C" __global__ void __launch_bounds__(THREADS) space_to_depth_##NAME(const SpaceToDepthArgs args) {         \
        space_to_depth<T>(args);                                                                                       \
    }
SPACE_TO_DEPTH_KERNEL(f32, float)
SPACE_TO_DEPTH_KERNEL(f16, __half)
SPACE_TO_DEPTH_KERNEL(bf16, __nv_bfloat16)
} // namespace space_to_depth
