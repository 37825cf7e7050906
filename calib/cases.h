/* Measurements as the fit and the reports see them: one case a problem, one value a kernel. */
#ifndef KS_CASES_H
#define KS_CASES_H

#include "model.h"

/* Measurements in memory, growing. */
typedef struct ks_rows {
    ks_measurement *items;
    size_t count, room;
    bool incomplete; /* one could not be added */
} ks_rows;

bool ks_rows_add(void *rows, const ks_measurement *m); /* a visitor for ks_store_each; false: out of memory */
ks_status
ks_rows_status(const ks_rows *rows); /* KS_ERR_MEMORY if they are incomplete: a walk that ends early is KS_OK */
void ks_rows_free(ks_rows *rows);

typedef struct ks_case {
    ks_problem problem;
    double value[KS_MODEL_KERNELS]; /* seconds, or joules; NaN where the kernel was not measured */
} ks_case;

/* A value that was left out as impossible, and what the kernel's costs make of the problem; NaN where the value needs no
 * comparison, being no positive number. */
typedef struct ks_suspect {
    ks_problem problem;
    char kernel[KS_NAME_BYTES];
    double value, expected;
} ks_suspect;

/* Points into itself (its stand-in kernels): not to be copied beyond the life of the original. */
typedef struct ks_cases {
    ks_type type;
    ks_layout layout;
    ks_objective objective;
    int kernels;
    const ks_kernel *kernel[KS_MODEL_KERNELS]; /* in table order, then foreign ones */
    ks_kernel foreign[KS_MODEL_KERNELS];
    char names[KS_MODEL_KERNELS][KS_NAME_BYTES];
    ks_case *items;
    int count;
    int borrowed;         /* the last so many come from another device (origin.h) */
    ks_suspect *suspects; /* left out as impossible: not finite, not positive, or far off their neighbours' rate */
    int quarantined;      /* how many */
} ks_cases;

/* Groups the rows of one type and layout. Rows of a kernel in another version than this build's, of family
 * KS_REFERENCE, or without a value for the objective are left out. Several rows of one problem and kernel become their
 * median. A row that is impossible is quarantined: a value that is not positive and finite, or less than a twentieth
 * of what the kernel's cost model, fitted to all rows, expects (a launch that failed and was recorded as a result). */
ks_status ks_cases_build(const ks_measurement *rows, size_t count, const ks_device *device, ks_type type,
                         ks_layout layout, ks_objective objective, ks_cases *cases);
void ks_cases_free(ks_cases *cases);

/* Index of the fastest measured kernel of a case (of one family, if family >= 0); -1 if there is none. */
int ks_case_best(const ks_cases *cases, const ks_case *c, int family);

/* The kernels that a case has values of, and their columns; returns how many. */
int ks_case_kernels(const ks_cases *cases, const ks_case *c, const ks_kernel *kernels[KS_MODEL_KERNELS],
                    int columns[KS_MODEL_KERNELS]);

/* Non-negative costs per term that fit kernel q's values best in relative error. False if out of memory. */
bool ks_cases_cost(const ks_cases *cases, const ks_device *device, int q, double cost[KS_NTERMS]);

/* Regret of a choice: chosen[i] is a kernel index for case i, or -1 where it has no opinion (not counted). */
ks_regret ks_cases_regret(const ks_cases *cases, const int *chosen, double *agreement);

/* The advisor's choice for every case, and the static policies'. */
void ks_cases_choose(const ks_cases *cases, const ks_device *device, const ks_model *model, int *chosen);
void ks_cases_choose_family(const ks_cases *cases, ks_family family, int *chosen);
/* The paper's rule with the threshold that is best on these very cases (so it flatters the rule). */
void ks_cases_choose_ratio(const ks_cases *cases, int *chosen, double *threshold);

/* Fills in what an acceptance report says of the static policies. chosen is room for one int a case. */
void ks_cases_judge_static(const ks_cases *cases, int *chosen, ks_acceptance *acceptance);

#endif
