// Local response normalisation, a thread an element or 16 bytes of channels. The window is cut at the borders of the
// element's tower; with one tower it runs over all channels.
#include "common/args.cuh"
#include "common/grid.cuh"
#include "common/normalise.cuh"

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
        const float result = normalised(load_element(pixel + c), sum, args.scale, args.k);
        store_element(static_cast<T*>(args.output) + index, result);
    }
}

// Towers are a multiple of a vector's channels, and the reach is VECTOR_REACH.
template <typename T>
__device__ void lrn_vector(const LrnArgs& args) {
    constexpr int SIZE = Vector<T>::SIZE;
    const int tower_vectors = args.tower / SIZE;
    const long long count = args.pixels * (args.c / SIZE);
    for (long long index = grid_thread(); index < count; index += grid_threads()) {
        const int place = static_cast<int>(index % tower_vectors) * SIZE;
        const T* centre = static_cast<const T*>(args.input) + index * SIZE;
        const Vector<T> result = normalise_at(centre, place, args.tower, args.scale, args.k);
        store_vector(static_cast<T*>(args.output) + index * SIZE, result);
    }
}

extern "C" __global__ void __launch_bounds__(256) lrn_f32(const LrnArgs args) { lrn<float>(args); }
extern "C" __global__ void __launch_bounds__(256) lrn_f16(const LrnArgs args) { lrn<__half>(args); }
extern "C" __global__ void __launch_bounds__(256) lrn_bf16(const LrnArgs args) { lrn<__nv_bfloat16>(args); }
extern "C" __global__ void __launch_bounds__(256) lrn_vector_f32(const LrnArgs args) { lrn_vector<float>(args); }
extern "C" __global__ void __launch_bounds__(256) lrn_vector_f16(const LrnArgs args) { lrn_vector<__half>(args); }
extern "C" __global__ void __launch_bounds__(256) lrn_vector_bf16(const LrnArgs args) {
    lrn_vector<__nv_bfloat16>(args);
}
