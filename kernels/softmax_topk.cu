// The k best classes of an image, best first, a block an image. Equal logits keep class order and NaN counts as minus
// infinity, as on the CPU.
//
//   maximum, denominator = softmax's, over all classes
//   k times: the best class that comes after the last one found in the order (logit down, index up)
//
// A class is skipped by comparing it with the last one found, so that nothing is marked or sorted and k may be any number.
// Beside them, whether all of the image's logits are finite: where one is not, values overflowed on the way.
#include "common/args.cuh"

namespace topk {
constexpr int THREADS = 256, WARPS = THREADS / 32;
constexpr unsigned ALL_LANES = 0xffffffffu;

struct Candidate {
    float logit; // NaN counts as minus infinity
    int index;   // INT_MAX: none
};

__device__ float key(float logit) {
    return isnan(logit) ? -INFINITY : logit;
}

// True where a comes before b.
__device__ bool before(Candidate a, Candidate b) {
    return a.logit > b.logit || (a.logit == b.logit && a.index < b.index);
}

__device__ Candidate warp_best(Candidate best) {
    for (int offset = 16; offset > 0; offset /= 2) {
        const Candidate other = {__shfl_xor_sync(ALL_LANES, best.logit, offset),
                                 __shfl_xor_sync(ALL_LANES, best.index, offset)};
        if (before(other, best)) best = other;
    }
    return best;
}

// The best of all threads' candidates, for all threads. `shared` is free again after the call.
__device__ Candidate block_best(Candidate best, Candidate* shared) {
    best = warp_best(best);
    if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = best;
    __syncthreads();
    best = shared[threadIdx.x % WARPS];
    best = warp_best(best);
    __syncthreads();
    return best;
}

// The sum of all threads' values in a fixed order, for all threads. `shared` is used for one call.
__device__ float block_sum(float value, float* shared) {
    for (int offset = 16; offset > 0; offset /= 2) value += __shfl_xor_sync(ALL_LANES, value, offset);
    if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = value;
    __syncthreads();
    float sum = 0.0f;
    for (int warp = 0; warp < WARPS; warp++) sum += shared[warp];
    return sum;
}

extern "C" __global__ void __launch_bounds__(THREADS) softmax_topk_f32(const TopKArgs args) {
    __shared__ Candidate candidates[WARPS];
    __shared__ float sums[WARPS], overflows[WARPS];
    const float* logits = args.logits + static_cast<size_t>(blockIdx.x) * args.classes;
    const size_t out = static_cast<size_t>(blockIdx.x) * args.k;
    const Candidate none = {-INFINITY, 0x7fffffff};

    float overflow = 0.0f;
    for (int index = threadIdx.x; index < args.classes; index += THREADS) {
        overflow += isfinite(__ldg(logits + index)) ? 0.0f : 1.0f;
    }
    overflow = block_sum(overflow, overflows);
    if (threadIdx.x == 0) args.finite[blockIdx.x] = overflow == 0.0f;

    Candidate last = {INFINITY, -1}; // comes before every class
    float maximum = 0.0f, denominator = 1.0f;
    for (int rank = 0; rank < args.k; rank++) {
        Candidate best = none;
        for (int index = threadIdx.x; index < args.classes; index += THREADS) {
            const Candidate candidate = {key(__ldg(logits + index)), index};
            if (before(last, candidate) && before(candidate, best)) best = candidate;
        }
        last = block_best(best, candidates);
        if (rank == 0 && args.probabilities) {
            maximum = last.logit;
            float sum = 0.0f;
            for (int index = threadIdx.x; index < args.classes; index += THREADS) {
                sum += expf(__ldg(logits + index) - maximum);
            }
            denominator = block_sum(sum, sums);
        }
        if (threadIdx.x == 0) {
            const float logit = __ldg(logits + last.index);
            args.indices[out + rank] = last.index;
            args.scores[out + rank] = args.probabilities ? expf(logit - maximum) / denominator : logit;
        }
    }
}
} // namespace topk
