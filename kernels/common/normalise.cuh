// Local response normalisation across channels:
//   output = a / (k + alpha / window * sum of a^2 over the window)^0.75
// The power is taken with square roots, x^0.75 = sqrt(x) * sqrt(sqrt(x)), which round correctly and cost less than powf.
// Squares are added in the order of channels by every kernel, so that all give the same bits.
#pragma once

#include "element.cuh"

// `scale` is alpha / window.
__device__ __forceinline__ float normalised(float value, float sum, float scale, float k) {
    const float base = fmaf(scale, sum, k);
    const float root = sqrtf(base);
    return value / (root * sqrtf(root));
}

// Channels on each side of the centre in the vectors' kernels: all six networks have windows of five.
constexpr int VECTOR_REACH = 2;

// What a vector's window takes on one side: no more, for what lies beyond may be nobody's yet.
template <typename T>
struct alignas(VECTOR_REACH * sizeof(T)) Neighbours {
    T element[VECTOR_REACH];
};

template <typename T>
__device__ __forceinline__ Neighbours<T> load_neighbours(const T* address) {
    static_assert(VECTOR_REACH * sizeof(T) == 4 || VECTOR_REACH * sizeof(T) == 8, "one access");
    if constexpr (sizeof(Neighbours<T>) == 4) {
        const unsigned bits = __ldg(reinterpret_cast<const unsigned*>(address));
        return reinterpret_cast<const Neighbours<T>&>(bits);
    } else {
        const uint2 bits = __ldg(reinterpret_cast<const uint2*>(address));
        return reinterpret_cast<const Neighbours<T>&>(bits);
    }
}

// The vector `centre` normalised, with its neighbours; they are zeros past the borders of its tower, which add nothing.
template <typename T>
__device__ __forceinline__ Vector<T> normalise(const Neighbours<T>& before, const Vector<T>& centre,
                                               const Neighbours<T>& after, float scale, float k) {
    constexpr int SIZE = Vector<T>::SIZE;
    float value[VECTOR_REACH + SIZE + VECTOR_REACH];
#pragma unroll
    for (int i = 0; i < VECTOR_REACH; i++) {
        value[i] = to_float(before.element[i]);
        value[VECTOR_REACH + SIZE + i] = to_float(after.element[i]);
    }
#pragma unroll
    for (int i = 0; i < SIZE; i++) value[VECTOR_REACH + i] = to_float(centre.element[i]);
    Vector<T> result;
#pragma unroll
    for (int i = 0; i < SIZE; i++) {
        float sum = 0.0f;
#pragma unroll
        for (int j = i; j <= i + 2 * VECTOR_REACH; j++) sum = fmaf(value[j], value[j], sum);
        store_element(&result.element[i], normalised(value[VECTOR_REACH + i], sum, scale, k));
    }
    return result;
}

// The vector at `centre`, whose first channel is the `place`th of a tower of `tower` channels, a multiple of a vector's.
template <typename T>
__device__ __forceinline__ Vector<T> normalise_at(const T* centre, int place, int tower, float scale, float k) {
    constexpr int SIZE = Vector<T>::SIZE;
    const Neighbours<T> before = place > 0 ? load_neighbours(centre - VECTOR_REACH) : Neighbours<T>{};
    const Neighbours<T> after = place + SIZE < tower ? load_neighbours(centre + SIZE) : Neighbours<T>{};
    return normalise(before, load_vector(centre), after, scale, k);
}
