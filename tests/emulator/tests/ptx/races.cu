// Races, one each, next to the same kernel without it. Shared memory holds older values before the race, so that nothing
// but the order of accesses is wrong. 64 threads a block, unless said otherwise.
#include <cuda_pipeline.h>
#include <cstdint>

#define KERNEL(name, ...)                                                                        \
    extern "C" __global__ void name##_ok(const float* in, float* out) { name<0>(in, out); }      \
    extern "C" __global__ void name##_bug(const float* in, float* out) { name<1>(in, out); }
#define BODY(name)       \
    template <int BUG>   \
    __device__ __forceinline__ void name(const float* in, float* out)

__device__ __forceinline__ void copy16(float* to, const float* from) {
    asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16;" ::"r"(uint32_t(__cvta_generic_to_shared(to))),
                 "l"(from)
                 : "memory");
}
__device__ __forceinline__ void commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int N>
__device__ __forceinline__ void wait() {
    asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
}

// No barrier between the write and the read.
BODY(write_read) {
    __shared__ volatile float tile[64];
    tile[threadIdx.x] = 0.0f;
    __syncthreads();
    tile[threadIdx.x] = in[threadIdx.x];
    if (!BUG) __syncthreads();
    out[threadIdx.x] = tile[63 - threadIdx.x];
}
KERNEL(write_read)

// No barrier between the reads of one round and the writes of the next.
BODY(refill) {
    __shared__ float tile[64];
    float sum = 0.0f;
#pragma unroll 1
    for (int k = 0; k < 4; k++) {
        tile[threadIdx.x] = in[k * 64 + threadIdx.x];
        __syncthreads();
        sum += tile[63 - threadIdx.x];
        if (!BUG) __syncthreads();
    }
    out[threadIdx.x] = sum;
}
KERNEL(refill)

// The warp's lanes exchange values without __syncwarp.
BODY(in_warp) {
    __shared__ volatile float tile[64];
    tile[threadIdx.x] = 0.0f;
    __syncthreads();
    tile[threadIdx.x] = in[threadIdx.x];
    if (!BUG) __syncwarp();
    out[threadIdx.x] = tile[threadIdx.x ^ 1];
}
KERNEL(in_warp)

// Two lanes write one element, in the bug different values.
BODY(same_element) {
    __shared__ volatile float tile[32];
    tile[threadIdx.x / 2] = in[BUG ? threadIdx.x : threadIdx.x / 2];
    __syncthreads();
    out[threadIdx.x] = tile[threadIdx.x / 2];
}
KERNEL(same_element)

// Each thread has 16 bits of a word; in the bug the even ones write all of it.
BODY(halves) {
    __shared__ __align__(4) volatile uint16_t tile[64];
    tile[threadIdx.x] = uint16_t(in[threadIdx.x]);
    if (BUG && threadIdx.x % 2 == 0) *reinterpret_cast<volatile uint32_t*>(tile + threadIdx.x) = 7;
    __syncthreads();
    out[threadIdx.x] = tile[63 - threadIdx.x];
}
KERNEL(halves)

// 96 threads: the last warp reads what the first two write, in the bug without being at their barrier.
BODY(named_barrier) {
    __shared__ volatile float tile[64];
    if (threadIdx.x < 64) tile[threadIdx.x] = 0.0f;
    __syncthreads();
    if (threadIdx.x < 64) tile[threadIdx.x] = in[threadIdx.x];
    if (threadIdx.x < 64) asm volatile("bar.sync 1, %0;" ::"n"(BUG ? 64 : 96) : "memory");
    else if (!BUG) asm volatile("bar.sync 1, 96;" ::: "memory");
    out[threadIdx.x] = tile[threadIdx.x % 32];
}
KERNEL(named_barrier)

// One stage, filled once more by cp.async than there are waits for it.
BODY(no_wait) {
    __shared__ __align__(16) float tile[256];
    for (int i = 0; i < 4; i++) tile[threadIdx.x * 4 + i] = 0.0f;
    __syncthreads();
    __pipeline_memcpy_async(tile + threadIdx.x * 4, in + threadIdx.x * 4, 16);
    __pipeline_commit();
    if (!BUG) __pipeline_wait_prior(0);
    __syncthreads();
    out[threadIdx.x] = tile[255 - threadIdx.x];
}
KERNEL(no_wait)

// The thread waits for its own copies only, and reads those of others.
BODY(no_barrier) {
    __shared__ __align__(16) float tile[256];
    for (int i = 0; i < 4; i++) tile[threadIdx.x * 4 + i] = 0.0f;
    __syncthreads();
    copy16(tile + threadIdx.x * 4, in + threadIdx.x * 4);
    commit();
    wait<0>();
    if (!BUG) __syncthreads();
    out[threadIdx.x] = tile[threadIdx.x * 4 ^ 4];
}
KERNEL(no_barrier)

// Three stages of 256 floats. BUG 1: wait_group one too high. BUG 2: the stage that was read last is filled before the others
// have read it too.
template <int BUG>
__device__ __forceinline__ void pipeline(const float* in, float* out) {
    __shared__ __align__(16) float tile[3][256];
    for (int i = 0; i < 12; i++) (&tile[0][0])[threadIdx.x * 12 + i] = 0.0f;
    __syncthreads();
    const int rounds = 8;
    for (int k = 0; k < 2; k++) copy16(&tile[k][threadIdx.x * 4], in + k * 256 + threadIdx.x * 4), commit();
    float sum = 0.0f;
#pragma unroll 1
    for (int k = 0; k < rounds; k++) {
        wait<BUG == 1 ? 2 : 1>();
        if (BUG != 2) __syncthreads();
        if (k + 2 < rounds) copy16(&tile[(k + 2) % 3][threadIdx.x * 4], in + (k + 2) * 256 + threadIdx.x * 4);
        commit();
        if (BUG == 2) __syncthreads();
        sum += tile[k % 3][255 - threadIdx.x];
    }
    out[threadIdx.x] = sum;
}
extern "C" __global__ void pipeline_ok(const float* in, float* out) { pipeline<0>(in, out); }
extern "C" __global__ void wait_bug(const float* in, float* out) { pipeline<1>(in, out); }
extern "C" __global__ void stale_bug(const float* in, float* out) { pipeline<2>(in, out); }

// All blocks write one block's part of the output.
BODY(block_writes) { out[(BUG ? 0 : blockIdx.x * 64) + threadIdx.x] = in[threadIdx.x] + blockIdx.x; }
KERNEL(block_writes)

// Each block reads what the next one writes.
BODY(block_reads) {
    out[blockIdx.x * 64 + threadIdx.x] = in[threadIdx.x];
    const int other = BUG ? (blockIdx.x + 1) % gridDim.x : blockIdx.x;
    const float value = *const_cast<volatile float*>(out + other * 64 + threadIdx.x);
    out[gridDim.x * 64 + blockIdx.x * 64 + threadIdx.x] = value;
}
KERNEL(block_reads)

// Updated atomically by all blocks and in the bug read otherwise.
BODY(block_atomics) {
    atomicAdd(out, in[threadIdx.x]);
    if (threadIdx.x == 0)
        out[64 + blockIdx.x] = BUG ? *const_cast<volatile float*>(out) : atomicAdd(out, 0.0f);
}
KERNEL(block_atomics)

// 16-bit elements of neighbouring blocks lie in one word; in the bug they overlap.
BODY(block_halves) {
    reinterpret_cast<uint16_t*>(out)[blockIdx.x * (BUG ? 62 : 63) + threadIdx.x % 63] = uint16_t(blockIdx.x);
}
KERNEL(block_halves)

// The last block adds up what all have written. In the bug nothing orders a block's writes before its count.
BODY(last_block) {
    __shared__ int last;
    unsigned* count = reinterpret_cast<unsigned*>(out);
    volatile float* part = out + 64;
    part[blockIdx.x * 64 + threadIdx.x] = in[threadIdx.x] + blockIdx.x;
    if (!BUG) __threadfence();
    __syncthreads();
    if (threadIdx.x == 0) {
        last = atomicAdd(count, 1) == gridDim.x - 1;
        __threadfence();
    }
    __syncthreads();
    if (!last) return;
    float sum = 0.0f;
    for (int i = 0; i < gridDim.x; i++) sum += part[i * 64 + threadIdx.x];
    part[threadIdx.x] = sum;
    if (threadIdx.x == 0) *count = 0;
}
KERNEL(last_block)
