// uint8 RGB pixels to the network input, a thread an element: (pixel / divisor - mean) / std, each operation
// rounded to nearest, bit for bit what the CPU computes.
#include "common/args.cuh"
#include "common/element.cuh"
#include "common/grid.cuh"

template <typename T>
__device__ void preprocess(const PreprocessArgs& args) {
    const long long count = args.count * 3;
    for (long long index = grid_thread(); index < count; index += grid_threads()) {
        const int channel = static_cast<int>(index % 3);
        const int source = args.bgr ? 2 - channel : channel;
        const float pixel = static_cast<float>(__ldg(args.pixels + (index - channel + source)));
        const float mean = channel == 0 ? args.mean[0] : channel == 1 ? args.mean[1] : args.mean[2];
        const float std = channel == 0 ? args.std[0] : channel == 1 ? args.std[1] : args.std[2];
        const float value = __fdiv_rn(__fsub_rn(__fdiv_rn(pixel, args.divisor), mean), std);
        store_element(static_cast<T*>(args.output) + index, value);
    }
}

extern "C" __global__ void __launch_bounds__(256) preprocess_f32(const PreprocessArgs args) { preprocess<float>(args); }
extern "C" __global__ void __launch_bounds__(256) preprocess_f16(const PreprocessArgs args) { preprocess<__half>(args); }
