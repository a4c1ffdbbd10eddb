// Activations are float32, f16 or bf16; all arithmetic on them is in float32. A value that a type cannot hold becomes an
// infinity: the layers that follow make infinities or NaN of it, but for a ReLU over minus infinity.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

__device__ __forceinline__ float to_float(float value) { return value; }
__device__ __forceinline__ float to_float(__half value) { return __half2float(value); }
__device__ __forceinline__ float to_float(__nv_bfloat16 value) { return __bfloat162float(value); }

__device__ __forceinline__ void store_element(float* address, float value) { *address = value; }
__device__ __forceinline__ void store_element(__half* address, float value) { *address = __float2half_rn(value); }
__device__ __forceinline__ void store_element(__nv_bfloat16* address, float value) {
    *address = __float2bfloat16_rn(value);
}

template <typename T>
__device__ __forceinline__ float load_element(const T* address) {
    return to_float(__ldg(address));
}

// Two neighbours at once; `address` is a multiple of their size.
__device__ __forceinline__ void store_pair(float* address, float first, float second) {
    *reinterpret_cast<float2*>(address) = make_float2(first, second);
}
__device__ __forceinline__ void store_pair(__half* address, float first, float second) {
    *reinterpret_cast<__half2*>(address) = __floats2half2_rn(first, second);
}
__device__ __forceinline__ void store_pair(__nv_bfloat16* address, float first, float second) {
    *reinterpret_cast<__nv_bfloat162*>(address) = __floats2bfloat162_rn(first, second);
}

// SIZE neighbours that are loaded and stored at once: one, or as many as 16 bytes hold.
template <typename T, int SIZE_ = 16 / sizeof(T)>
struct alignas(SIZE_ * sizeof(T)) Vector {
    static constexpr int SIZE = SIZE_;
    static_assert(SIZE == 1 || SIZE * sizeof(T) == 16, "one access");
    T element[SIZE];
};

template <typename T, int SIZE = Vector<T>::SIZE>
__device__ __forceinline__ Vector<T, SIZE> load_vector(const T* address) {
    if constexpr (SIZE == 1) {
        return {{__ldg(address)}};
    } else {
        const uint4 bits = __ldg(reinterpret_cast<const uint4*>(address));
        return reinterpret_cast<const Vector<T, SIZE>&>(bits);
    }
}

// From shared memory, in one access: of a Vector that is copied nvcc makes one an element.
template <typename T>
__device__ __forceinline__ Vector<T> load_shared_vector(const T* address) {
    const uint4 bits = *reinterpret_cast<const uint4*>(address);
    return reinterpret_cast<const Vector<T>&>(bits);
}

template <typename T, int SIZE>
__device__ __forceinline__ void store_vector(T* address, const Vector<T, SIZE>& vector) {
    if constexpr (SIZE == 1) {
        *address = vector.element[0];
    } else {
        *reinterpret_cast<uint4*>(address) = reinterpret_cast<const uint4&>(vector);
    }
}
