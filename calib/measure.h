/* Measuring: one problem, all its candidate kernels, side by side.
 *
 * The protocol (design, section 4): inputs rotate through more memory than the last-level cache holds, so every run finds
 * them cold, and they are never zeros; candidates are interleaved with a rotating start, so drift of the clock or of a
 * noisy neighbour hits all alike; sampling stops when the question "which is faster" is settled: when the confidence
 * interval of the paired ratio of the two fastest leaves 1 or lies inside the tie band. Before a kernel is timed its
 * output is checked against the reference, and the winner's once more afterwards; wrong or failed means a status and a reason,
 * never a time.
 *
 * A kernel's time is its median. But one that is in the race and has runs of over twice the median is sampled on, beside the one
 * of the least mean, until it is known whether that is its own habit (steady.h). If it is, the mean is its time, for that is
 * what callers pay, and the reason begins with "unsteady".
 *
 * A race whose two fastest spread by over a fifth is run once more, and the calmer of both counts: on a virtual machine the
 * neighbours hold up one race in fifty for longer than it lasts. */
#ifndef KS_MEASURE_H
#define KS_MEASURE_H

#include "failures.h"

typedef struct ks_measurer ks_measurer;

enum { KS_MAX_SAMPLES = 64 };

/* Takes the memory that inputs and outputs rotate through (twice the last-level cache, at most an eighth of the
 * machine's memory; more only for a problem that needs it). The memory is the device's. */
ks_status ks_measurer_open(ks_measurer **measurer, const ks_device *device);

typedef struct ks_measurer_setup {
    int64_t most_bytes; /* of the device's memory, for all arrays and workspaces; 0: 70 % of what the device has */
    const ks_failures *failures; /* kernels that are not to be run; NULL: none */
    /* Called before every run of a kernel with what is being measured (its status and times are not known yet), and with NULL
     * when none runs any more. If the process ends in between, or the device is lost, it was that kernel. NULL: nobody asks. */
    void (*running)(void *user, const ks_measurement *m);
    void *user;
} ks_measurer_setup;

/* The same for whoever wants more of it. KS_ERR_MEMORY names the least that most_bytes must be, since small arrays would lie in
 * the cache, or what is free. What setup points to must outlive the measurer. */
ks_status ks_measurer_open_with(ks_measurer **measurer, const ks_device *device, const ks_measurer_setup *setup);
void ks_measurer_close(ks_measurer *measurer);

/* What the device was lost to, with status and reason; NULL while it is not lost. */
const ks_measurement *ks_measurer_lost_to(const ks_measurer *measurer);

/* Where min_samples rounds fit into max_s, going by the quickest round, they are taken though something else held the machine:
 * else one disturbance would leave the verdict to two samples. A kernel that is looked at for its slow runs may take up to
 * KS_MAX_SAMPLES. Neither goes on beyond three times max_s, and looking not beyond three times what the race has taken. */
typedef struct ks_measure_limits {
    double max_s;                 /* stop sampling after this long; 0: no limit */
    int min_samples, max_samples; /* of each kernel still in the race; <= KS_MAX_SAMPLES; 0: 5 and 25 */
    bool full_race;               /* keep sampling kernels that are far behind, too */
    bool energy;                  /* then run each kernel a third of a second more and read the energy counter */
} ks_measure_limits;

/* The kernels to be measured on the problem: those of the table that have not failed on it. Returns how many. */
int ks_measurer_kernels(const ks_measurer *measurer, const ks_problem *problem,
                        const ks_kernel *kernels[KS_MAX_KERNELS]);

/* Measures `count` kernels. out[q] describes kernels[q]: status, reason, time, spread, samples. raw, if not NULL, holds
 * count * KS_MAX_SAMPLES sample times. Fails as a whole where nothing could be measured (KS_ERR_MEMORY: also a problem that is
 * larger than what is free, or than what may be used), or if the device is lost (KS_ERR_DEVICE): then out says nothing, and
 * ks_measurer_lost_to why. */
ks_status ks_measure(ks_measurer *measurer, const ks_problem *problem, const ks_kernel *const *kernels, int count,
                     const ks_measure_limits *limits, ks_measurement *out, double *raw);

/* Measures the device's copy rate, and its GEMM rate for each type as the best that any kernel of the table reaches on a
 * dense problem: (1,1536,1536,1) of batch 1536 on a CPU. On a GPU it is 4096, or 8192 for the half types, and a bmm kernel,
 * so that the rate is the BLAS's own: a fused kernel may do a float32 product by three faster ones. Fills in both in
 * *device and in the measurer's own copy of it. Fails as ks_measure does. */
ks_status ks_measure_rates(ks_measurer *measurer, ks_device *device);

/* Two results closer than this are a tie. */
#define KS_TIE 0.02

#endif
