// Local response normalisation across the channels of each pixel, a thread an element:
//   output = a / (k + alpha / window * sum of a^2 over the window)^0.75
// The window is cut at the borders of the element's tower; with one tower it runs over all channels. The power is taken
// with square roots, x^0.75 = sqrt(x) * sqrt(sqrt(x)), which round correctly and cost less than powf.
#include "common/args.cuh"
#include "common/grid.cuh"

extern "C" __global__ void __launch_bounds__(256) lrn_f32(const LrnArgs args) {
    const long long count = args.pixels * args.c;
    for (long long index = grid_thread(); index < count; index += grid_threads()) {
        const int c = static_cast<int>(index % args.c);
        const int first = c / args.tower * args.tower;
        const int low = max(c - args.reach, first), high = min(c + args.reach, first + args.tower - 1);
        const float* pixel = args.input + (index - c);
        float sum = 0.0f;
        for (int i = low; i <= high; i++) {
            const float value = __ldg(pixel + i);
            sum = fmaf(value, value, sum);
        }
        const float base = fmaf(args.scale, sum, args.k);
        const float root = sqrtf(base);
        args.output[index] = __ldg(pixel + c) / (root * sqrtf(root));
    }
}
