// Activations are float32 or f16; all arithmetic on them is in float32. A value that f16 cannot hold becomes an infinity:
// the layers that follow make infinities or NaN of it, but for a ReLU over minus infinity.
#pragma once

#include <cuda_fp16.h>

__device__ __forceinline__ float load_element(const float* address) { return __ldg(address); }
__device__ __forceinline__ float load_element(const __half* address) { return __half2float(__ldg(address)); }

__device__ __forceinline__ void store_element(float* address, float value) { *address = value; }
__device__ __forceinline__ void store_element(__half* address, float value) { *address = __float2half_rn(value); }

// Two neighbours at once; `address` is a multiple of their size.
__device__ __forceinline__ void store_pair(float* address, float first, float second) {
    *reinterpret_cast<float2*>(address) = make_float2(first, second);
}
__device__ __forceinline__ void store_pair(__half* address, float first, float second) {
    *reinterpret_cast<__half2*>(address) = __floats2half2_rn(first, second);
}
