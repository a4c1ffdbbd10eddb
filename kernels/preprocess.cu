// uint8 RGB pixels to the network input, a thread an element: (pixel / divisor - mean) / std, each operation
// rounded to nearest, bit for bit what the CPU computes.
#include "common/args.cuh"
#include "common/element.cuh"
#include "common/grid.cuh"

// (pixel / divisor - mean) / std of network channel `channel`, from a pixel's three bytes.
template <typename Args>
__device__ __forceinline__ float normalised(const Args& args, const uint8_t* rgb, int channel) {
    const float pixel = static_cast<float>(__ldg(rgb + (args.bgr ? 2 - channel : channel)));
    const float mean = channel == 0 ? args.mean[0] : channel == 1 ? args.mean[1] : args.mean[2];
    const float std = channel == 0 ? args.std[0] : channel == 1 ? args.std[1] : args.std[2];
    return __fdiv_rn(__fsub_rn(__fdiv_rn(pixel, args.divisor), mean), std);
}

template <typename T>
__device__ void preprocess(const PreprocessArgs& args) {
    const long long count = args.count * 3;
    for (long long index = grid_thread(); index < count; index += grid_threads()) {
        const int channel = static_cast<int>(index % 3);
        const float value = normalised(args, args.pixels + (index - channel), channel);
        store_element(static_cast<T*>(args.output) + index, value);
    }
}

// The same, and blocks of pixels laid out as the channels of one: a convolution whose stride is the block's side then has
// stride 1, a filter of a block's side less, and channels that tensor cores can take. A thread writes 16 bytes, of
// block * block * 3 elements a block, a multiple of what they hold.
template <typename T>
__device__ void space_to_depth(const SpaceToDepthArgs& args) {
    constexpr int SIZE = Vector<T>::SIZE;
    const int row_elements = args.block * 3, block_elements = args.block * row_elements;
    const long long count = static_cast<long long>(args.n) * args.hb * args.wb * block_elements / SIZE;
    for (long long index = grid_thread(); index < count; index += grid_threads()) {
        const long long block = index * SIZE / block_elements;
        const int first = static_cast<int>(index * SIZE % block_elements);
        const int block_w = static_cast<int>(block % args.wb), block_h = static_cast<int>(block / args.wb % args.hb);
        const long long n = block / args.wb / args.hb;
        Vector<T> result;
#pragma unroll
        for (int i = 0; i < SIZE; i++) {
            const int at = first + i, channel = at % 3;
            const int h = block_h * args.block + at / row_elements - args.padding;
            const int w = block_w * args.block + at % row_elements / 3 - args.padding;
            // Unsigned comparison: a negative coordinate is past the end.
            const bool inside = unsigned(h) < unsigned(args.h) && unsigned(w) < unsigned(args.w);
            const uint8_t* rgb = args.pixels + ((n * args.h + h) * args.w + w) * 3;
            store_element(&result.element[i], inside ? normalised(args, rgb, channel) : 0.0f);
        }
        store_vector(static_cast<T*>(args.output) + index * SIZE, result);
    }
}

extern "C" __global__ void __launch_bounds__(256) preprocess_f32(const PreprocessArgs args) { preprocess<float>(args); }
extern "C" __global__ void __launch_bounds__(256) preprocess_f16(const PreprocessArgs args) {
    preprocess<__half>(args);
}
extern "C" __global__ void __launch_bounds__(256) preprocess_bf16(const PreprocessArgs args) {
    preprocess<__nv_bfloat16>(args);
}
extern "C" __global__ void __launch_bounds__(256) space_to_depth_f32(const SpaceToDepthArgs args) {
    space_to_depth<float>(args);
}
extern "C" __global__ void __launch_bounds__(256) space_to_depth_f16(const SpaceToDepthArgs args) {
    space_to_depth<__half>(args);
}
extern "C" __global__ void __launch_bounds__(256) space_to_depth_bf16(const SpaceToDepthArgs args) {
    space_to_depth<__nv_bfloat16>(args);
}
