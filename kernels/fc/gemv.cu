// A fully connected layer for few images: each filter is read once, 16 bytes a lane, and meets all images in registers. FMA
// in float32, bias and ReLU fused.
//
//   block b, warp w: filters [(8 b + w) * ROWS, +ROWS)
//   lane: sum[ROWS][IMAGES] over the 16-byte chunks lane, lane + 32, ... of the inputs
//   sums of 32 lanes by butterfly, in the same order for every image; lane 0 stores
//
// The inputs are a multiple of a chunk's elements. Filters past the last and images past n are read as the last, and not
// stored.
#include "../common/args.cuh"
#include "../common/element.cuh"
#include "../ptx/max_nan.cuh"

namespace gemv {
constexpr int ROWS = 4, WARPS = 8;

template <typename T, int IMAGES>
__device__ __forceinline__ void multiply(const ConvArgs& args) {
    constexpr int CHUNK = Vector<T>::SIZE;
    const int lane = threadIdx.x % 32, first = (blockIdx.x * WARPS + threadIdx.x / 32) * ROWS;
    if (first >= args.k) return;
    const T *filters[ROWS], *inputs[IMAGES];
#pragma unroll
    for (int row = 0; row < ROWS; row++) {
        filters[row] = static_cast<const T*>(args.filter) + size_t(min(first + row, args.k - 1)) * args.c;
    }
#pragma unroll
    for (int image = 0; image < IMAGES; image++) {
        inputs[image] = static_cast<const T*>(args.input) + size_t(min(image, args.n - 1)) * args.c;
    }
    float sum[ROWS][IMAGES] = {};
    for (int c = lane * CHUNK; c < args.c; c += 32 * CHUNK) {
        Vector<T> filter[ROWS];
#pragma unroll
        for (int row = 0; row < ROWS; row++) filter[row] = load_vector(filters[row] + c);
#pragma unroll
        for (int image = 0; image < IMAGES; image++) {
            const Vector<T> input = load_vector(inputs[image] + c);
#pragma unroll
            for (int i = 0; i < CHUNK; i++) {
#pragma unroll
                for (int row = 0; row < ROWS; row++) {
                    sum[row][image] = fmaf(to_float(filter[row].element[i]), to_float(input.element[i]), sum[row][image]);
                }
            }
        }
    }
#pragma unroll
    for (int row = 0; row < ROWS; row++) {
#pragma unroll
        for (int image = 0; image < IMAGES; image++) {
            float value = sum[row][image];
#pragma unroll
            for (int offset = 16; offset > 0; offset /= 2) value += __shfl_xor_sync(0xffffffffu, value, offset);
            const int k = first + row;
            if (lane != 0 || k >= args.k || image >= args.n) continue;
            value += __ldg(args.bias + k);
            if (args.relu) value = max_nan(value, 0.0f);
            const size_t at = size_t(image) * args.pitch + k;
            if (args.wide_output) {
                static_cast<float*>(args.output)[at] = value;
            } else {
                store_element(static_cast<T*>(args.output) + at, value);
            }
        }
    }
}
} // namespace gemv

// NAME_N takes up to N images.
#define GEMV_KERNEL(NAME, T, IMAGES)                                                                                   \
    extern "C" __global__ void __launch_bounds__(256) NAME##_##IMAGES(const ConvArgs args) {                           \
        gemv::multiply<T, IMAGES>(args);                                                                               \
    }
#define GEMV_KERNELS(NAME, T) GEMV_KERNEL(NAME, T, 1) GEMV_KERNEL(NAME, T, 2) GEMV_KERNEL(NAME, T, 4) GEMV_KERNEL(NAME, T, 8)
GEMV_KERNELS(gemv_f32, float)
GEMV_KERNELS(gemv_f16, __half)
GEMV_KERNELS(gemv_bf16, __nv_bfloat16)
