// Adds up what the splits of a convolution have summed, in their order, so that a result does not depend on which block was
// done first; then bias, ReLU and the output's type. A thread an element.
#include "../common/args.cuh"
#include "../common/element.cuh"
#include "../common/grid.cuh"
#include "../ptx/max_nan.cuh"

template <typename T>
__device__ void reduce_splits(const ReduceArgs& args) {
    for (long long index = grid_thread(); index < args.count; index += grid_threads()) {
        float sum = 0.0f;
        for (int split = 0; split < args.splits; split++) sum += __ldg(args.partial + split * args.count + index);
        const long long pixel = index / args.k;
        const int k = static_cast<int>(index - pixel * args.k);
        sum += __ldg(args.bias + k);
        store_element(static_cast<T*>(args.output) + pixel * args.pitch + k, args.relu ? max_nan(sum, 0.0f) : sum);
    }
}

extern "C" __global__ void __launch_bounds__(256) reduce_splits_f32(const ReduceArgs args) { reduce_splits<float>(args); }
extern "C" __global__ void __launch_bounds__(256) reduce_splits_f16(const ReduceArgs args) { reduce_splits<__half>(args); }
extern "C" __global__ void __launch_bounds__(256) reduce_splits_bf16(const ReduceArgs args) {
    reduce_splits<__nv_bfloat16>(args);
}
