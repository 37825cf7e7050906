/* Epilogues on the CPU as a pass of their own: pieces of rows, shared by the team, each by the core's vectors. */
#include "epilogue.h"
#include "fused_core.h"
#include "pool.h"
#include "sizes.h"

enum { PIECE = 1 << 14 }; /* elements: enough to be worth a task, few enough to share evenly */
static const double piece_s = 3e-6;

typedef struct finish_job {
    const ks_problem *problem;
    const ks_finish_args *args;
    ks_finish_shape shape;
    int64_t rows, columns, pieces; /* of a piece, and pieces a row */
} finish_job;

static void finish_task(void *arg, int64_t index, int thread)
{
    (void)thread;
    const finish_job *job = arg;
    const ks_finish_shape *s = &job->shape;
    const ks_type type = job->problem->type;
    const size_t size = ks_type_bytes(type);
    const char *bias = job->args->epilogue->bias;
    const int64_t r0 = index / job->pieces * job->rows, c0 = index % job->pieces * job->columns;
    ks_finish_run run = {.epilogue = job->args->epilogue,
                         .bias_runs = s->bias_by_column,
                         .count = ks_min(job->columns, s->columns - c0)};
    for (int64_t r = r0; r < ks_min(r0 + job->rows, s->rows); r++) {
        const size_t at = (size_t)(r * s->columns + c0) * size;
        run.product = (const char *)job->args->product + at, run.y = (char *)job->args->y + at;
        run.bias = bias ? bias + (size_t)(s->bias_by_column ? c0 : r) * size : NULL;
        ks_fused_core_for(type)->finish(type, &run);
    }
}

ks_status ks_cpu_finish(const ks_problem *p, const ks_finish_args *args)
{
    finish_job job = {.problem = p, .args = args, .shape = ks_finish_shape_of(p)};
    job.columns = ks_min(job.shape.columns, PIECE);
    job.rows = ks_max(1, PIECE / job.columns);
    job.pieces = ks_ceil_div(job.shape.columns, job.columns);
    const int64_t tasks = ks_ceil_div(job.shape.rows, job.rows) * job.pieces;
    ks_pool_run(tasks, (double)tasks * piece_s, finish_task, &job);
    return KS_OK;
}
