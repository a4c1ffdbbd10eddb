// Max pool and adaptive average pool over NHWC, a thread an output element or 16 bytes of them: neighbouring threads take
// neighbouring channels, so that every access of a warp is one run of memory.
#include "common/args.cuh"
#include "common/grid.cuh"
#include "common/maximum.cuh"

namespace pool {
// The place of an output element, or of the first of SIZE neighbours. `input` points at its channel of the image's first
// pixel.
template <typename T>
struct Output {
    const T* input;
    T* element;
    int p, q;
};

template <typename T, int SIZE>
__device__ Output<T> output_at(const PoolArgs& args, long long index) {
    const int vectors = args.c / SIZE;
    const int c = static_cast<int>(index % vectors) * SIZE;
    const long long pixel = index / vectors;
    const int q = static_cast<int>(pixel % args.q), p = static_cast<int>(pixel / args.q % args.p);
    const long long n = pixel / args.q / args.p;
    return {static_cast<const T*>(args.input) + n * args.h * args.w * args.c + c,
            static_cast<T*>(args.output) + pixel * args.pitch + c, p, q};
}

// Windows lie within the input; C is a multiple of SIZE.
template <typename T, int SIZE>
__device__ void max_pool(const PoolArgs& args) {
    const long long count = static_cast<long long>(args.n) * args.p * args.q * (args.c / SIZE);
    for (long long index = grid_thread(); index < count; index += grid_threads()) {
        const Output<T> out = output_at<T, SIZE>(args, index);
        const T* row = out.input + (out.p * args.stride * args.w + out.q * args.stride) * args.c;
        Maximum<T, SIZE> maximum;
        for (int r = 0; r < args.kernel; r++, row += args.w * args.c) {
            for (int s = 0; s < args.kernel; s++) maximum.take(load_vector<T, SIZE>(row + s * args.c));
        }
        store_vector(out.element, maximum.stored());
    }
}

// Output row p averages input rows floor(p * H / P) to ceil((p + 1) * H / P), columns likewise.
template <typename T>
__device__ void adaptive_avg_pool(const PoolArgs& args) {
    const long long count = static_cast<long long>(args.n) * args.p * args.q * args.c;
    for (long long index = grid_thread(); index < count; index += grid_threads()) {
        const Output<T> out = output_at<T, 1>(args, index);
        const int h0 = out.p * args.h / args.p, h1 = ((out.p + 1) * args.h + args.p - 1) / args.p;
        const int w0 = out.q * args.w / args.q, w1 = ((out.q + 1) * args.w + args.q - 1) / args.q;
        float sum = 0.0f;
        for (int h = h0; h < h1; h++) {
            for (int w = w0; w < w1; w++) {
                sum += load_element(out.input + (static_cast<long long>(h) * args.w + w) * args.c);
            }
        }
        store_element(out.element, sum / static_cast<float>((h1 - h0) * (w1 - w0)));
    }
}

// Six blocks an SM: left alone, ptxas spills to get by with 32 registers.
#define POOL_KERNELS(NAME, T)                                                                                          \
    extern "C" __global__ void __launch_bounds__(256) max_pool_##NAME(const PoolArgs args) { max_pool<T, 1>(args); }   \
    extern "C" __global__ void __launch_bounds__(256, 6) max_pool_vector_##NAME(const PoolArgs args) {                 \
        max_pool<T, Vector<T>::SIZE>(args);                                                                            \
    }                                                                                                                  \
    extern "C" __global__ void __launch_bounds__(256) adaptive_avg_pool_##NAME(const PoolArgs args) {                  \
        adaptive_avg_pool<T>(args);                                                                                    \
    }
POOL_KERNELS(f32, float)
POOL_KERNELS(f16, __half)
POOL_KERNELS(bf16, __nv_bfloat16)
} // namespace pool
