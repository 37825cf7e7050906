/* Device facts: what is known of a machine without timing anything, and the two measured rates that its roofline
 * stands on. A device is identified by its name; for the CPU that name carries the number of threads, because
 * timings taken with another number are another device's. */
#ifndef KS_DEVICE_H
#define KS_DEVICE_H

#include "ksauto.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum ks_backend { KS_CPU = 0, KS_CUDA } ks_backend;

typedef struct ks_device {
    ks_backend backend;
    int index;                  /* of a CUDA device; 0 for the CPU */
    char name[KS_DEVICE_BYTES]; /* "Intel(R) Xeon(R) Processor (2 threads)", "NVIDIA H100 80GB HBM3" */
    char arch[32];              /* "avx512", "avx2", "portable"; "sm_90" */
    int units;                  /* threads used; multiprocessors */
    int64_t l1_bytes, l2_bytes, l3_bytes, memory_bytes;
    char driver[64];                    /* kernel release; CUDA driver version */
    char runtime[64];                   /* C library; CUDA runtime version */
    char blas[96];                      /* "OpenBLAS 0.3.21 SkylakeX", "cuBLAS 13.0.0"; "" if there is none */
    double copy_bytes_per_s;            /* measured, read + written; 0 until measured */
    double gemm_flops_per_s[KS_NTYPES]; /* measured; 0 until measured */
} ks_device;

/* The most that facts from files may say: more is no device, and these leave room to calculate with them. */
enum { KS_MOST_UNITS = 1 << 20 };
#define KS_MOST_BYTES (INT64_C(1) << 50)

/* Fills in the facts of the CPU this process may use. Cannot fail: what cannot be found out is 0 or "". */
void ks_device_cpu(ks_device *device);

/* How many CUDA devices there are. If none, *why (may be NULL) says so in words; valid until the thread's next call. The
 * first call starts CUDA, which takes its time. CUDA_VISIBLE_DEVICES is CUDA's own business. */
int ks_cuda_count(const char **why);

/* Fills in the facts of CUDA device `index`. KS_ERR_DEVICE says what there is instead. */
ks_status ks_device_cuda(int index, ks_device *device);

/* The device of this machine that people call so: NULL, "" or "cpu", the CPU's name, "cuda" (the first) or "cuda:N", or
 * a CUDA device's name. KS_ERR_DEVICE if a CUDA device is asked for by number and is not there; KS_ERR_NO_DATA if the
 * text is the name of nothing on this machine. CUDA is started only if the text does not mean the CPU. */
ks_status ks_device_find(const char *text, ks_device *device);

/* Whether names and facts that come from files may be shown: no control characters, which a terminal, or a script that is made
 * with them, would obey. */
bool ks_text_is_plain(const char *text);

/* What a device is doing now, where that can be read: NVML; of a CPU the system's energy counters, for all processes. */
typedef struct ks_device_state {
    double clock_hz;   /* of the multiprocessors; 0: unknown */
    double energy_j;   /* used since some moment in the past; NaN: unknown */
    char throttle[64]; /* what holds the clock down: "power cap, heat"; "" if nothing does, or unknown */
} ks_device_state;

void ks_device_state_read(const ks_device *device, ks_device_state *state);

/* Rates good to a factor of a few, for a device nobody has measured yet; leaves measured ones alone. A device of which nothing
 * but the name is known gets one unit. */
void ks_device_assume_rates(ks_device *device);

/* max(bytes / copy rate, flops / GEMM rate): section 1 of the design. Rates must not be 0. */
double ks_roofline_s(const ks_device *device, const ks_problem *problem);
/* The roofline time of the dense (a*b*d) x (a*c*d) product with the same batch. */
double ks_dense_roofline_s(const ks_device *device, const ks_problem *problem);

#ifdef __cplusplus
}
#endif

#endif
