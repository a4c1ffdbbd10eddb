// Local response normalisation across the channels of each pixel, a thread an element:
//   output = a / (k + alpha / window * sum of a^2 over the window)^0.75
// The window is cut at the borders of the element's tower; with one tower it runs over all channels. The power is taken
// with square roots, x^0.75 = sqrt(x) * sqrt(sqrt(x)), which round correctly and cost less than powf.
#include "common/args.cuh"
#include "common/element.cuh"
#include "common/grid.cuh"

template <typename T>
__device__ void lrn(const LrnArgs& args) {
    const long long count = args.pixels * args.c;
    for (long long index = grid_thread(); index < count; index += grid_threads()) {
        const int c = static_cast<int>(index % args.c);
        const int first = c / args.tower * args.tower;
        const int low = max(c - args.reach, first), high = min(c + args.reach, first + args.tower - 1);
        const T* pixel = static_cast<const T*>(args.input) + (index - c);
        float sum = 0.0f;
        for (int i = low; i <= high; i++) {
            const float value = load_element(pixel + i);
            sum = fmaf(value, value, sum);
        }
        const float base = fmaf(args.scale, sum, args.k);
        const float root = sqrtf(base);
        const float result = load_element(pixel + c) / (root * sqrtf(root));
        store_element(static_cast<T*>(args.output) + index, result);
    }
}

extern "C" __global__ void __launch_bounds__(256) lrn_f32(const LrnArgs args) { lrn<float>(args); }
extern "C" __global__ void __launch_bounds__(256) lrn_f16(const LrnArgs args) { lrn<__half>(args); }
extern "C" __global__ void __launch_bounds__(256) lrn_bf16(const LrnArgs args) { lrn<__nv_bfloat16>(args); }
