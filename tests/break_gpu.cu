/* The two ways in which a kernel usually fails: it writes where nothing is, or it stops itself (an assertion does so). */
#include "break_gpu.h"

#include <cuda_runtime.h>

static __global__ void fail(break_how how, unsigned long long wait_ns, volatile int *nowhere)
{
    unsigned long long start, now;
    asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(start));
    do asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(now));
    while (now - start < wait_ns);
    if (how == BREAK_TRAP)
        __trap();
    else
        *nowhere = 1;
}

int break_gpu(break_how how, unsigned long long wait_ns, void *stream)
{
    fail<<<1, 1, 0, static_cast<cudaStream_t>(stream)>>>(how, wait_ns, reinterpret_cast<volatile int *>(64));
    return cudaGetLastError();
}
