// bf16 arithmetic as the operators and intrinsics of cuda_bf16.h spell it, and conversions to tf32. One thread for each
// element; each writes its results one after the other.
#include <cuda_bf16.h>

template <typename T, int n> __device__ void write(T* out, int i, const T (&values)[n]) {
    for (int k = 0; k < n; k++) out[i * n + k] = values[k];
}

extern "C" __global__ void bfloat_scalar(const __nv_bfloat16* x, const __nv_bfloat16* y, const __nv_bfloat16* z,
                                         __nv_bfloat16* out, unsigned* flags, int n) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    const __nv_bfloat16 a = x[i], b = y[i], c = z[i];
    const __nv_bfloat16 values[] = {
        a + b, a - b, a * b, -a, __habs(a), __hadd_rn(a, b), __hsub_rn(a, b), __hmul_rn(a, b), __hfma(a, b, c),
        __hfma_relu(a, b, c), __hmax(a, b), __hmin(a, b), __hmax_nan(a, b), __hmin_nan(a, b), __hadd_sat(a, b),
        __hmul_sat(a, b), __hfma_sat(a, b, c),
    };
    write(out, i, values);
    flags[i] = (a == b) | (a != b) << 1 | (a < b) << 2 | (a <= b) << 3 | (a > b) << 4 | (a >= b) << 5
        | __hequ(a, b) << 6 | __hneu(a, b) << 7 | __hltu(a, b) << 8 | __hleu(a, b) << 9 | __hgtu(a, b) << 10
        | __hgeu(a, b) << 11 | __hisnan(a) << 12;
}

// The same on pairs, as far as there are such intrinsics.
extern "C" __global__ void bfloat_pair(const __nv_bfloat162* x, const __nv_bfloat162* y, const __nv_bfloat162* z,
                                       __nv_bfloat162* out, unsigned* flags, int n) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    const __nv_bfloat162 a = x[i], b = y[i], c = z[i];
    const __nv_bfloat162 values[] = {
        a + b, a - b, a * b, -a, __habs2(a), __hadd2_rn(a, b), __hsub2_rn(a, b), __hmul2_rn(a, b), __hfma2(a, b, c),
        __hfma2_relu(a, b, c), __hmax2(a, b), __hmin2(a, b), __hmax2_nan(a, b), __hmin2_nan(a, b), __hadd2_sat(a, b),
        __hmul2_sat(a, b), __hfma2_sat(a, b, c), __lowhigh2highlow(a), __low2bfloat162(a), __highs2bfloat162(a, b),
        __heq2(a, b), __hltu2(a, b),
    };
    write(out, i, values);
    const unsigned masks[] = {
        __hbeq2(a, b), __hbltu2(a, b), __hbge2(a, b), __heq2_mask(a, b), __hgt2_mask(a, b), __hneu2_mask(a, b),
    };
    write(flags, i, masks);
}

extern "C" __global__ void bfloat_convert(const float* x, __nv_bfloat16* out, float* wide, unsigned* tensor, int n) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    const float f = x[i];
    const __nv_bfloat162 pair = __floats2bfloat162_rn(f, -f);
    unsigned short positive;
    asm("cvt.rn.relu.bf16.f32 %0, %1;" : "=h"(positive) : "f"(f));
    const __nv_bfloat16 values[] = {
        __float2bfloat16_rn(f), __float2bfloat16_rz(f), __float2bfloat16(-f), __low2bfloat16(pair),
        __high2bfloat16(pair), __ushort_as_bfloat16(positive),
    };
    write(out, i, values);
    const float2 both = __bfloat1622float2(pair);
    const float floats[] = {__bfloat162float(values[0]), both.x, both.y};
    write(wide, i, floats);
    asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(tensor[i]) : "f"(f));
}
