// Max pool and adaptive average pool over NHWC, a thread an output element or 16 bytes of them: neighbouring threads take neighbouring
// channels, so that every access of a warp is one run of memory.
#include "common/args.cuh"
#include "common/element.cuh"
#include "common/grid.cuh"
#include "ptx/max_nan.cuh"

namespace pool {
// An output element's place. `input` points at its channel of the image's first pixel.
template <typename T>
struct Output {
    const T* input;
    int p, q;
};

template <typename T>
__device__ Output<T> output_at(const PoolArgs& args, long long index) {
    const int c = static_cast<int>(index % args.c);
    const long long pixel = index / args.c;
    const int q = static_cast<int>(pixel % args.q), p = static_cast<int>(pixel / args.q % args.p);
    const long long n = pixel / args.q / args.p;
    return {static_cast<const T*>(args.input) + n * args.h * args.w * args.c + c, p, q};
}

// Windows lie within the input; a NaN in a window is its maximum, as in PyTorch.
template <typename T>
__device__ void max_pool(const PoolArgs& args) {
    const long long count = static_cast<long long>(args.n) * args.p * args.q * args.c;
    for (long long index = grid_thread(); index < count; index += grid_threads()) {
        const Output<T> out = output_at<T>(args, index);
        float maximum = -INFINITY;
        for (int r = 0; r < args.kernel; r++) {
            for (int s = 0; s < args.kernel; s++) {
                const long long h = out.p * args.stride + r, w = out.q * args.stride + s;
                maximum = max_nan(maximum, load_element(out.input + (h * args.w + w) * args.c));
            }
        }
        store_element(static_cast<T*>(args.output) + index, maximum);
    }
}

// The same for 16 bytes of channels a thread; C is a multiple of what they hold.
template <typename T>
__device__ void max_pool_vector(const PoolArgs& args) {
    constexpr int SIZE = Vector<T>::SIZE;
    const int vectors = args.c / SIZE;
    const long long count = static_cast<long long>(args.n) * args.p * args.q * vectors;
    for (long long index = grid_thread(); index < count; index += grid_threads()) {
        const long long pixel = index / vectors;
        const int c = static_cast<int>(index % vectors) * SIZE;
        const int q = static_cast<int>(pixel % args.q), p = static_cast<int>(pixel / args.q % args.p);
        const long long n = pixel / args.q / args.p;
        const T* input = static_cast<const T*>(args.input) + n * args.h * args.w * args.c + c;
        float maximum[SIZE];
#pragma unroll
        for (int i = 0; i < SIZE; i++) maximum[i] = -INFINITY;
        for (int r = 0; r < args.kernel; r++) {
            for (int s = 0; s < args.kernel; s++) {
                const long long h = p * args.stride + r, w = q * args.stride + s;
                const Vector<T> values = load_vector(input + (h * args.w + w) * args.c);
#pragma unroll
                for (int i = 0; i < SIZE; i++) maximum[i] = max_nan(maximum[i], to_float(values.element[i]));
            }
        }
        Vector<T> result;
#pragma unroll
        for (int i = 0; i < SIZE; i++) store_element(&result.element[i], maximum[i]);
        store_vector(static_cast<T*>(args.output) + pixel * args.c + c, result);
    }
}

// Output row p averages input rows floor(p * H / P) to ceil((p + 1) * H / P), columns likewise.
template <typename T>
__device__ void adaptive_avg_pool(const PoolArgs& args) {
    const long long count = static_cast<long long>(args.n) * args.p * args.q * args.c;
    for (long long index = grid_thread(); index < count; index += grid_threads()) {
        const Output<T> out = output_at<T>(args, index);
        const int h0 = out.p * args.h / args.p, h1 = ((out.p + 1) * args.h + args.p - 1) / args.p;
        const int w0 = out.q * args.w / args.q, w1 = ((out.q + 1) * args.w + args.q - 1) / args.q;
        float sum = 0.0f;
        for (int h = h0; h < h1; h++) {
            for (int w = w0; w < w1; w++) {
                sum += load_element(out.input + (static_cast<long long>(h) * args.w + w) * args.c);
            }
        }
        store_element(static_cast<T*>(args.output) + index, sum / static_cast<float>((h1 - h0) * (w1 - w0)));
    }
}

extern "C" __global__ void __launch_bounds__(256) max_pool_f32(const PoolArgs args) { max_pool<float>(args); }
extern "C" __global__ void __launch_bounds__(256) max_pool_f16(const PoolArgs args) { max_pool<__half>(args); }
extern "C" __global__ void __launch_bounds__(256) max_pool_bf16(const PoolArgs args) { max_pool<__nv_bfloat16>(args); }
extern "C" __global__ void __launch_bounds__(256) max_pool_vector_f32(const PoolArgs args) {
    max_pool_vector<float>(args);
}
extern "C" __global__ void __launch_bounds__(256) max_pool_vector_f16(const PoolArgs args) {
    max_pool_vector<__half>(args);
}
extern "C" __global__ void __launch_bounds__(256) max_pool_vector_bf16(const PoolArgs args) {
    max_pool_vector<__nv_bfloat16>(args);
}
extern "C" __global__ void __launch_bounds__(256) adaptive_avg_pool_f32(const PoolArgs args) {
    adaptive_avg_pool<float>(args);
}
extern "C" __global__ void __launch_bounds__(256) adaptive_avg_pool_f16(const PoolArgs args) {
    adaptive_avg_pool<__half>(args);
}
extern "C" __global__ void __launch_bounds__(256) adaptive_avg_pool_bf16(const PoolArgs args) {
    adaptive_avg_pool<__nv_bfloat16>(args);
}
} // namespace pool
