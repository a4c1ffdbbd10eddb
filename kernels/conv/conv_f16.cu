// conv_mma.cuh in f16.
#include "conv_mma.cuh"

CONV_KERNELS(conv_f16, __half)
