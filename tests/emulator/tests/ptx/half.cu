// Half-precision arithmetic as the operators and intrinsics of cuda_fp16.h spell it. One thread for each element; each
// writes its results one after the other.
#include <cuda_fp16.h>

template <typename T, int n> __device__ void write(T* out, int i, const T (&values)[n]) {
    for (int k = 0; k < n; k++) out[i * n + k] = values[k];
}

extern "C" __global__ void half_scalar(const __half* x, const __half* y, const __half* z, __half* out, unsigned* flags,
                                       int n) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    const __half a = x[i], b = y[i], c = z[i];
    const __half values[] = {
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
extern "C" __global__ void half_pair(const __half2* x, const __half2* y, const __half2* z, __half2* out,
                                     unsigned* flags, int n) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    const __half2 a = x[i], b = y[i], c = z[i];
    const __half2 values[] = {
        a + b, a - b, a * b, -a, __habs2(a), __hadd2_rn(a, b), __hsub2_rn(a, b), __hmul2_rn(a, b), __hfma2(a, b, c),
        __hfma2_relu(a, b, c), __hmax2(a, b), __hmin2(a, b), __hmax2_nan(a, b), __hmin2_nan(a, b), __hadd2_sat(a, b),
        __hmul2_sat(a, b), __hfma2_sat(a, b, c), __lowhigh2highlow(a), __low2half2(a), __highs2half2(a, b),
        __heq2(a, b), __hltu2(a, b),
    };
    write(out, i, values);
    const unsigned masks[] = {
        __hbeq2(a, b), __hbltu2(a, b), __hbge2(a, b), __heq2_mask(a, b), __hgt2_mask(a, b), __hneu2_mask(a, b),
    };
    write(flags, i, masks);
}

extern "C" __global__ void half_convert(const float* x, const int* y, __half* out, int* whole, float* wide, int n) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    const float f = x[i];
    const int k = y[i];
    const __half2 pair = __floats2half2_rn(f, -f);
    const __half values[] = {
        __float2half(f), __float2half_rz(f), __float2half_rd(f), __float2half_ru(f), __int2half_rn(k),
        __int2half_rz(k), __uint2half_rn(k), __short2half_rn(k), __ushort2half_rn(k), __low2half(pair),
        __high2half(pair), hrint(__float2half(f)), htrunc(__float2half(f)),
    };
    write(out, i, values);
    const __half h = values[0];
    const int numbers[] = {
        __half2int_rn(h), __half2int_rz(h), __half2int_rd(h), __half2int_ru(h), (int)__half2uint_rz(h),
        __half2short_rz(h), __half2ushort_rn(h), (int)__half2ll_rz(h),
    };
    write(whole, i, numbers);
    const float2 both = __half22float2(pair);
    const float floats[] = {__half2float(h), both.x, both.y};
    write(wide, i, floats);
}
