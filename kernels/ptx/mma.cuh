// mma.sync m16n8k16 (sm_80 and up): sum (16x8) += a (16x16) * b (16x8), f16 operands, f32 sums. With g = lane / 4 and
// t = lane % 4, a lane holds
//   a[0], a[1], a[2], a[3]:  rows g, g + 8, g, g + 8, columns 2t and 2t + 1, of a[2] and a[3] 8 more
//   b[0], b[1]:              column g, rows 2t and 2t + 1, of b[1] 8 more
//   sum[0..2], sum[2..4]:    rows g and g + 8, columns 2t and 2t + 1
#pragma once

#include <cstdint>

__device__ __forceinline__ void mma_m16n8k16(float (&sum)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
