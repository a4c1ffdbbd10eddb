// Pooling, local response normalisation, preprocessing and dropout.
#include <cstdint>
extern "C" __global__ void max_pool(const float* in, float* out, int height, int width, int channels, int out_height,
                                    int out_width, int size, int stride, int count) {
    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < count; i += gridDim.x * blockDim.x) {
        const int c = i % channels, x = i / channels % out_width, y = i / channels / out_width % out_height;
        const int n = i / channels / out_width / out_height;
        float best = -__int_as_float(0x7f800000);
        for (int dy = 0; dy < size; dy++)
            for (int dx = 0; dx < size; dx++) {
                const float v = in[((size_t)(n * height + y * stride + dy) * width + x * stride + dx) * channels + c];
                asm("max.NaN.f32 %0, %1, %2;" : "=f"(best) : "f"(best), "f"(v));
            }
        out[i] = best;
    }
}

extern "C" __global__ void lrn(const float* in, float* out, int channels, int pixels, float alpha, float beta, float k) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= pixels * channels) return;
    const int c = i % channels, base = i - c;
    float sum = 0.0f;
    for (int j = max(c - 2, 0); j <= min(c + 2, channels - 1); j++) sum = fmaf(in[base + j], in[base + j], sum);
    const float scale = fmaf(alpha / 5.0f, sum, k);
    out[i] = beta == 0.75f ? in[i] / (sqrtf(scale) * sqrtf(sqrtf(scale))) : in[i] * exp2f(-beta * __log2f(scale));
}

extern "C" __global__ void preprocess(const uint8_t* in, float* out, int pixels, float3 mean, float3 scale) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i * 4 + 3 < pixels) {
        const uint32_t* words = reinterpret_cast<const uint32_t*>(in) + i * 3;
        const uint32_t w[3] = {words[0], words[1], words[2]};
        for (int p = 0; p < 12; p++) {
            const float v = float(w[p / 4] >> (p % 4 * 8) & 255);
            const float m = p % 3 == 0 ? mean.x : p % 3 == 1 ? mean.y : mean.z;
            const float s = p % 3 == 0 ? scale.x : p % 3 == 1 ? scale.y : scale.z;
            out[i * 12 + p] = (v / 255.0f - m) * s;
        }
    } else {
        for (int p = i * 4; p < pixels; p++)
            for (int c = 0; c < 3; c++) {
                const float m = c == 0 ? mean.x : c == 1 ? mean.y : mean.z;
                const float s = c == 0 ? scale.x : c == 1 ? scale.y : scale.z;
                out[p * 3 + c] = (float(__ldg(in + p * 3 + c)) / 255.0f - m) * s;
            }
    }
}

extern "C" __global__ void preprocess_quad(const uchar4* in, float4* out, int quads) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= quads) return;
    const uchar4 v = in[i];
    out[i] = make_float4(v.x, v.y, v.z, v.w);
}

__device__ uint4 philox(uint4 c, uint2 key) {
#pragma unroll
    for (int round = 0; round < 10; round++) {
        const uint32_t hi0 = __umulhi(0xD2511F53u, c.x), lo0 = 0xD2511F53u * c.x;
        const uint32_t hi1 = __umulhi(0xCD9E8D57u, c.z), lo1 = 0xCD9E8D57u * c.z;
        c = make_uint4(hi1 ^ c.y ^ key.x, lo1, hi0 ^ c.w ^ key.y, lo0);
        key.x += 0x9E3779B9u, key.y += 0xBB67AE85u;
    }
    return c;
}

extern "C" __global__ void dropout(float* data, uint64_t seed, uint64_t offset, int count) {
    const int i = (blockIdx.x * blockDim.x + threadIdx.x) * 4;
    if (i >= count) return;
    const uint64_t position = offset + i / 4;
    const uint4 r = philox(make_uint4(uint32_t(position), uint32_t(position >> 32), 0, 0),
                           make_uint2(uint32_t(seed), uint32_t(seed >> 32)));
    const uint32_t bits[4] = {r.x, r.y, r.z, r.w};
    for (int j = 0; j < 4; j++)
        if (i + j < count) data[i + j] = bits[j] >> 31 ? 2.0f * data[i + j] : 0.0f;
}
