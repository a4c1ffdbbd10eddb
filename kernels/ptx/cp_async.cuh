// Asynchronous copies from global to shared memory (sm_80 and up). A thread's copies since its last commit are a group;
// groups finish in order. Waiting makes a thread's own copies visible to itself alone: a barrier must follow before
// other threads read them.
#pragma once

#include <cstdint>

// Copies the first `bytes` of 16 bytes to shared address `target`, and writes zeros for the rest: what lies there is not
// read, and with none to copy `source` may be any address. Both are multiples of 16.
__device__ __forceinline__ void cp_async_up_to_16(uint32_t target, const void* source, int bytes) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(target), "l"(source), "r"(bytes) : "memory");
}

// Copies 16 bytes, or none where `filled` is false.
__device__ __forceinline__ void cp_async_16(uint32_t target, const void* source, bool filled) {
    cp_async_up_to_16(target, source, filled ? 16 : 0);
}

__device__ __forceinline__ void cp_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// Waits until at most the newest PENDING groups of this thread are unfinished.
template <int PENDING>
__device__ __forceinline__ void cp_async_wait() {
    asm volatile("cp.async.wait_group %0;" ::"n"(PENDING) : "memory");
}
