// The maximum of a pool's window, of each channel of a vector. A NaN in a window is its maximum, as in PyTorch.
#pragma once

#include "../ptx/max_nan.cuh"
#include "element.cuh"

template <typename T, int SIZE>
struct Maximum {
    float value[SIZE];

    __device__ __forceinline__ Maximum() {
#pragma unroll
        for (int i = 0; i < SIZE; i++) value[i] = -INFINITY;
    }

    __device__ __forceinline__ void take(const Vector<T, SIZE>& values) {
#pragma unroll
        for (int i = 0; i < SIZE; i++) value[i] = max_nan(value[i], to_float(values.element[i]));
    }

    __device__ __forceinline__ Vector<T, SIZE> stored() const {
        Vector<T, SIZE> result;
#pragma unroll
        for (int i = 0; i < SIZE; i++) store_element(&result.element[i], value[i]);
        return result;
    }
};
