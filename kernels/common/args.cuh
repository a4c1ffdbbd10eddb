// Arguments of every kernel: one plain struct each, passed by value. src/cuda/args.rs mirrors them field by field, and
// both sides assert size and offsets.
//
// Dialect: activations NHWC, filters KRSC, outputs NPQK. GEMM_M = N * P * Q, GEMM_N = K / groups,
// GEMM_K = R * S * C / groups. Activations and filters are of the type in the kernel's name; all else is float32.
// All extents are counts of elements. `pitch` is what lies between the first channels of two neighbouring output pixels: the
// output's channels, and those of the other tower where both share a buffer.
#pragma once

#include <cstddef>
#include <cstdint>

#define ASSERT_LAYOUT(type, last_field, last_offset, size)                                                             \
    static_assert(offsetof(type, last_field) == last_offset && sizeof(type) == size,                                   \
                  #type " differs from src/cuda/args.rs")

struct ConvArgs {
    const void* input;  // (N, H, W, C)
    const void* filter; // (K, R, S, C / groups); for tensor cores rows of GEMM_K are padded with zeros to a multiple of 16 bytes
    const float* bias;  // (K)
    void* output;       // (N, P, Q, K)
    float* partial;     // (splits, N, P, Q, K), the splits' bare sums; unused where there is one split
    int n, h, w, c;
    int p, q, k;
    int r, s;
    int stride, padding, groups;
    int relu;        // 0 or 1
    int wide_output; // 1: the output is float32, whatever the activations are
    int splits;      // parts that GEMM_K is summed in, by different blocks
    int pitch;       // from one output pixel to the next
};
ASSERT_LAYOUT(ConvArgs, pitch, 100, 104);

struct ReduceArgs {
    const float* partial; // (splits, count)
    const float* bias;    // (K)
    void* output;         // (N, P, Q, K), count elements
    long long count;
    int k;
    int splits;
    int relu; // 0 or 1
    int pitch;
};
ASSERT_LAYOUT(ReduceArgs, pitch, 44, 48);

struct PoolArgs {
    const void* input; // (N, H, W, C)
    void* output;      // (N, P, Q, C)
    int n, h, w, c;
    int p, q;
    int kernel, stride; // unused by the adaptive average
    int pitch;
    int reserved;
};
ASSERT_LAYOUT(PoolArgs, reserved, 52, 56);

struct LrnArgs {
    const void* input; // (pixels, input_c)
    void* output;      // (pixels, C)
    long long pixels;
    int c, tower; // channels, and channels of the input that a window stays within
    int reach;    // channels on each side of the centre
    float scale;  // alpha / window
    float k;
    int input_c, first; // channels of the input, and the place of the output's first one among them
    int pitch;
};
ASSERT_LAYOUT(LrnArgs, pitch, 52, 56);

struct LrnPoolArgs {
    const void* input; // (N, H, W, input_c)
    void* output;      // (N, P, Q, C)
    int n, h, w, c;
    int p, q;
    int tower;   // channels of the input that a window stays within
    float scale; // alpha / window
    float k;
    int input_c, first; // channels of the input, and the place of the output's first one among them; C and 0 where the pool
                        // comes first
    int pitch;
};
ASSERT_LAYOUT(LrnPoolArgs, pitch, 60, 64);

struct PreprocessArgs {
    const uint8_t* pixels; // (pixels, 3), RGB
    void* output;          // (pixels, 3), network channel order
    long long count;       // pixels
    float divisor;
    float mean[3], std[3]; // per network channel
    int bgr;               // 1 where network channel 0 is blue
};
ASSERT_LAYOUT(PreprocessArgs, bgr, 52, 56);

struct SpaceToDepthArgs {
    const uint8_t* pixels; // (N, H, W, 3), RGB
    void* output;          // (N, HB, WB, 4 * 4 * 3): within a block rows, columns, then network channels
    int n, h, w;
    int hb, wb;
    int padding; // zeros before the first row and column of pixels
    float divisor;
    float mean[3], std[3]; // per network channel
    int bgr;               // 1 where network channel 0 is blue
};
ASSERT_LAYOUT(SpaceToDepthArgs, bgr, 68, 72);

struct TopKArgs {
    const float* logits; // (N, classes)
    int* indices;        // (N, k)
    float* scores;       // (N, k)
    int* finite;         // (N): 1 where all logits of the image are finite, else 0
    int n, classes, k;
    int probabilities; // 1: softmax over the classes; 0: logits as they are
};
ASSERT_LAYOUT(TopKArgs, probabilities, 44, 48);

struct DropoutArgs {
    const void* input;
    void* output;
    unsigned long long count; // elements
    unsigned long long seed;
    unsigned int layer;     // position of the layer in its network: layers draw different masks
    unsigned int threshold; // probability of zeroing an element, times 2^32
    float scale;            // 1 / (1 - probability)
    unsigned int reserved;
};
ASSERT_LAYOUT(DropoutArgs, reserved, 44, 48);
