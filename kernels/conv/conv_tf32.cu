// conv_mma.cuh in tf32, on float32 activations and filters.
#include "conv_mma.cuh"

CONV_KERNELS(conv_tf32, float)
