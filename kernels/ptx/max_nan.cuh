// max.NaN.f32 (sm_80 and up): the larger operand, or NaN if either is one. fmaxf returns the other operand instead, which
// would hide an overflow behind a ReLU.
#pragma once

__device__ __forceinline__ float max_nan(float a, float b) {
    float result;
    asm("max.NaN.f32 %0, %1, %2;" : "=f"(result) : "f"(a), "f"(b));
    return result;
}
