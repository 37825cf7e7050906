/* Kernels that cost the process its GPU: test_gpu_lost.c, test_gpu_wrong.c. */
#ifndef KS_TESTS_BREAK_GPU_H
#define KS_TESTS_BREAK_GPU_H

#ifdef __cplusplus
extern "C" {
#endif

typedef enum break_how { BREAK_WRONG_ADDRESS = 0, BREAK_TRAP } break_how;

/* Queues, on the stream (NULL: the default one) of the current device, a kernel that waits and then fails so that nothing on the
 * device works any more in this process. Returns a cudaError_t: that of the launch. */
int break_gpu(break_how how, unsigned long long wait_ns, void *stream);

#ifdef __cplusplus
}
#endif

#endif
