// Asynchronous copies from global to shared memory (sm_80 and up). A thread's copies since its last commit are a group;
// groups finish in order. Waiting makes a thread's own copies visible to itself alone: a barrier must follow before
// other threads read them.
#pragma once

#include <cstdint>

// Copies 16 bytes to shared address `target`, or writes 16 zeros where `filled` is false: `source` is then not read and may
// be any address. Both are multiples of 16.
__device__ __forceinline__ void cp_async_16(uint32_t target, const void* source, bool filled) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(target), "l"(source), "r"(filled ? 16 : 0)
                 : "memory");
}

__device__ __forceinline__ void cp_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// Waits until at most the newest PENDING groups of this thread are unfinished.
template <int PENDING>
__device__ __forceinline__ void cp_async_wait() {
    asm volatile("cp.async.wait_group %0;" ::"n"(PENDING) : "memory");
}
