// Inverted dropout: each element is zero with probability p, else multiplied by 1 / (1 - p). The mask is a pure function of seed,
// layer and element index (Philox-4x32-10, Salmon et al. 2011), so that the CPU draws the same one, and no state is kept.
//
//   element i uses word i % 4 of philox(counter = {i / 4 low, i / 4 high, layer, 0}, key = {seed low, seed high})
//   kept where word >= threshold = p * 2^32
#include "common/args.cuh"
#include "common/element.cuh"
#include "common/grid.cuh"

namespace dropout {
struct Words {
    unsigned int word[4];
};

__device__ Words philox(unsigned long long counter, unsigned int layer, unsigned long long key) {
    unsigned int c[4] = {static_cast<unsigned int>(counter), static_cast<unsigned int>(counter >> 32), layer, 0};
    unsigned int k0 = static_cast<unsigned int>(key), k1 = static_cast<unsigned int>(key >> 32);
#pragma unroll
    for (int round = 0; round < 10; round++) {
        const unsigned int high0 = __umulhi(0xD2511F53u, c[0]), low0 = 0xD2511F53u * c[0];
        const unsigned int high1 = __umulhi(0xCD9E8D57u, c[2]), low1 = 0xCD9E8D57u * c[2];
        c[0] = high1 ^ c[1] ^ k0;
        c[1] = low1;
        c[2] = high0 ^ c[3] ^ k1;
        c[3] = low0;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    return {{c[0], c[1], c[2], c[3]}};
}

// A thread takes four neighbouring elements, the words of one Philox call.
template <typename T>
__device__ void dropout(const DropoutArgs& args) {
    const T* input = static_cast<const T*>(args.input);
    T* output = static_cast<T*>(args.output);
    const unsigned long long blocks = (args.count + 3) / 4;
    for (unsigned long long block = grid_thread(); block < blocks; block += grid_threads()) {
        const Words words = philox(block, args.layer, args.seed);
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const unsigned long long index = block * 4 + i;
            if (index >= args.count) break;
            const float kept = load_element(input + index) * args.scale;
            store_element(output + index, words.word[i] >= args.threshold ? kept : 0.0f);
        }
    }
}

extern "C" __global__ void __launch_bounds__(256) dropout_f32(const DropoutArgs args) { dropout<float>(args); }
extern "C" __global__ void __launch_bounds__(256) dropout_f16(const DropoutArgs args) { dropout<__half>(args); }
extern "C" __global__ void __launch_bounds__(256) dropout_bf16(const DropoutArgs args) { dropout<__nv_bfloat16>(args); }
} // namespace dropout
