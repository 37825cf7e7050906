/* The device's time for a run of calls, without the host's.
 *
 * A kernel holds the stream until the host has queued everything; then the work runs back to back between two events.
 * (nvbench measures so.) The hold ends by itself after some time: a call that waits for the device, or more launches than
 * the driver's queue takes, would otherwise wait for ever. It is short, so that such kernels can be measured at all: the
 * measurement is made once more, in case the host was merely interrupted, and then taken as it is, launch costs included,
 * as the kernel's user would have them. */
#include "cuda_device.h"
#include "error.h"
#include "launch.cuh"

#include <cuda_runtime.h>
#include <pthread.h>

enum { DEVICES = 64 };

static const unsigned long long longest_hold_ns = 20000000;

/* What a device needs for timing; made at the first use and kept for the life of the process. */
struct timer {
    cudaStream_t stream;
    cudaEvent_t start, stop;
    unsigned *flags, *flags_on_device; /* pinned host memory: [0] the ticket released, [1] the ticket that ran out */
    unsigned ticket;
};

static timer timers[DEVICES];
static pthread_mutex_t lock =
    PTHREAD_MUTEX_INITIALIZER; /* one timing at a time: two would disturb each other anyway */

static __global__ void hold(unsigned *flags, unsigned ticket, unsigned long long longest_ns)
{
    unsigned long long start, now;
    unsigned released;
    asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(start));
    do {
        asm volatile("ld.relaxed.sys.global.u32 %0, [%1];" : "=r"(released) : "l"(flags) : "memory");
        asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(now));
    } while (released != ticket && now - start < longest_ns);
    if (released != ticket) *(volatile unsigned *)(flags + 1) = ticket;
}

static cudaError_t prepare(timer *t)
{
    void *mapped = NULL;
    cudaError_t e = cudaSuccess;
    if (t->flags_on_device) return e;
    if (!t->stream) e = cudaStreamCreateWithFlags(&t->stream, cudaStreamNonBlocking);
    if (e == cudaSuccess && !t->start) e = cudaEventCreate(&t->start);
    if (e == cudaSuccess && !t->stop) e = cudaEventCreate(&t->stop);
    if (e == cudaSuccess && !t->flags) {
        e = cudaHostAlloc((void **)&t->flags, 2 * sizeof *t->flags, cudaHostAllocMapped);
        if (e == cudaSuccess) t->flags[0] = t->flags[1] = 0;
    }
    if (e == cudaSuccess) e = cudaHostGetDevicePointer(&mapped, t->flags, 0);
    if (e == cudaSuccess) t->flags_on_device = (unsigned *)mapped;
    return e;
}

/* One attempt; *ran_out if the hold ended before all was queued. */
static ks_status attempt(timer *t, ks_timed_body *body, void *user, int calls, double *seconds, bool *ran_out)
{
    const unsigned ticket = ++t->ticket;
    float milliseconds = 0;
    ks_status s = ks_cuda_status(ks_launch(hold, 1, 1, 0, t->stream, t->flags_on_device, ticket, longest_hold_ns),
                                 "holding the timing stream");
    if (s == KS_OK) s = ks_cuda_status(cudaEventRecord(t->start, t->stream), "starting the clock");
    for (int i = 0; s == KS_OK && i < calls; i++) s = body(user, i, t->stream);
    const cudaError_t stopped = cudaEventRecord(t->stop, t->stream);
    __atomic_store_n(&t->flags[0], ticket, __ATOMIC_RELEASE); /* whatever happened: nothing may stay held */
    const cudaError_t done = cudaStreamSynchronize(t->stream);
    if (s != KS_OK) return s;
    s = ks_cuda_status(stopped, "stopping the clock");
    if (s == KS_OK) s = ks_cuda_status(done, "running what is timed");
    if (s == KS_OK) s = ks_cuda_status(cudaEventElapsedTime(&milliseconds, t->start, t->stop), "reading the clock");
    *seconds = (double)milliseconds * 1e-3;
    *ran_out = __atomic_load_n(&t->flags[1], __ATOMIC_ACQUIRE) == ticket;
    return s;
}

ks_status ks_cuda_time(const ks_device *device, ks_timed_body *body, void *user, int calls, double *seconds)
{
    int previous;
    if (device->index < 0 || device->index >= DEVICES)
        return ks_fail(KS_ERR_DEVICE, "cuda:%d cannot be timed: only the first %d devices", device->index, DEVICES);
    ks_status s = ks_cuda_enter(device, &previous);
    if (s != KS_OK) return s;
    pthread_mutex_lock(&lock);
    timer *t = &timers[device->index];
    bool ran_out = true;
    s = ks_cuda_status(prepare(t), "preparing to time");
    for (int i = 0; s == KS_OK && ran_out && i < 2; i++) s = attempt(t, body, user, calls, seconds, &ran_out);
    pthread_mutex_unlock(&lock);
    ks_cuda_leave(previous);
    return s;
}
