// Local response normalisation, a thread an element or 16 bytes of channels. The window is cut at the borders of the
// element's tower; with one tower it runs over all channels. The input may have channels that the output has not, which
// windows see all the same.
#include "common/args.cuh"
#include "common/grid.cuh"
#include "common/normalise.cuh"

template <typename T>
__device__ void lrn(const LrnArgs& args) {
    const long long count = args.pixels * args.c;
    for (long long index = grid_thread(); index < count; index += grid_threads()) {
        const long long pixel_index = index / args.c;
        const int channel = static_cast<int>(index - pixel_index * args.c), c = args.first + channel;
        const int first = c / args.tower * args.tower;
        const int low = max(c - args.reach, first), high = min(c + args.reach, first + args.tower - 1);
        const T* pixel = static_cast<const T*>(args.input) + pixel_index * args.input_c;
        float sum = 0.0f;
        for (int i = low; i <= high; i++) {
            const float value = load_element(pixel + i);
            sum = fmaf(value, value, sum);
        }
        const float result = normalised(load_element(pixel + c), sum, args.scale, args.k);
        store_element(static_cast<T*>(args.output) + pixel_index * args.pitch + channel, result);
    }
}

// Towers, the output's channels and the place of its first are multiples of a vector's channels, and the reach is
// VECTOR_REACH.
template <typename T>
__device__ void lrn_vector(const LrnArgs& args) {
    constexpr int SIZE = Vector<T>::SIZE;
    const int vectors = args.c / SIZE;
    const long long count = args.pixels * vectors;
    for (long long index = grid_thread(); index < count; index += grid_threads()) {
        const long long pixel = index / vectors;
        const int channel = static_cast<int>(index - pixel * vectors) * SIZE, c = args.first + channel;
        const T* centre = static_cast<const T*>(args.input) + pixel * args.input_c + c;
        const Vector<T> result = normalise_at(centre, c % args.tower, args.tower, args.scale, args.k);
        store_vector(static_cast<T*>(args.output) + pixel * args.pitch + channel, result);
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
