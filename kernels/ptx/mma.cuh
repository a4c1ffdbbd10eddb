// mma.sync (sm_80 and up): sum (16x8) += a (16xK) * b (Kx8), f32 sums. K elements of an operand are 32 bytes: 16 of f16 or
// bf16, 8 of tf32. With g = lane / 4 and t = lane % 4, a lane holds
//   a[0], a[1], a[2], a[3]:  rows g, g + 8, g, g + 8; bytes 4t to 4t + 3 of the row, of a[2] and a[3] 16 more
//   b[0], b[1]:              column g, bytes 4t to 4t + 3, of b[1] 16 more
//   sum[0..2], sum[2..4]:    rows g and g + 8, columns 2t and 2t + 1
// so that one ldmatrix pattern loads the operands of every type.
#pragma once

#include <cstdint>
#include <cuda_bf16.h>
#include <cuda_fp16.h>

// Operands of type T; float stands for tf32, whose low 13 bits the instruction ignores.
template <typename T>
__device__ __forceinline__ void mma(float (&sum)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1);

#define DEFINE_MMA(T, SHAPE, TYPES)                                                                                    \
    template <>                                                                                                        \
    __device__ __forceinline__ void mma<T>(float(&sum)[4], const uint32_t(&a)[4], uint32_t b0, uint32_t b1) {          \
        asm("mma.sync.aligned." SHAPE ".row.col." TYPES " {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "              \
            "{%0, %1, %2, %3};"                                                                                        \
            : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])                                                   \
            : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));                                           \
    }
DEFINE_MMA(__half, "m16n8k16", "f32.f16.f16.f32")
DEFINE_MMA(__nv_bfloat16, "m16n8k16", "f32.bf16.bf16.f32")
DEFINE_MMA(float, "m16n8k8", "f32.tf32.tf32.f32")
#undef DEFINE_MMA

// What an operand register is put through before mma: float32 is rounded to tf32, the others are as they are.
template <typename T>
__device__ __forceinline__ uint32_t operand(uint32_t bits) {
    return bits;
}
template <>
__device__ __forceinline__ uint32_t operand<float>(uint32_t bits) {
    uint32_t rounded;
    asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(rounded) : "f"(__uint_as_float(bits)));
    return rounded;
}
