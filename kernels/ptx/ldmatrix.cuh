// ldmatrix (sm_75 and up): four 8x8 matrices of 16-bit elements from shared memory. Lanes 8i to 8i + 7 give the addresses of
// the eight rows of matrix i, 16 bytes each and multiples of 16. Register i then holds, in lane l, elements 2 * (l % 4) and
// the next of row l / 4 of matrix i: the layout of mma's operands. Eight rows in eight different 16-byte columns of the 128
// bytes of all banks take one pass; every clash takes one more.
#pragma once

#include <cstdint>

__device__ __forceinline__ void ldmatrix_x4(uint32_t (&registers)[4], uint32_t row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(registers[0]), "=r"(registers[1]), "=r"(registers[2]), "=r"(registers[3])
                 : "r"(row)
                 : "memory");
}
