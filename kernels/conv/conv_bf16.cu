// conv_mma.cuh in bf16.
#include "conv_mma.cuh"

CONV_KERNELS(conv_bf16, __nv_bfloat16)
