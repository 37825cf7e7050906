/* fused.cpu.rows: batch-first with lanes along the outputs (fused_rows.h), how a problem is cut into tasks, and what that
 * costs. */
#include "fused_rows.h"
#include "fused_core.h"
#include "pool.h"
#include "rows.h"
#include "sizes.h"

enum { LINE_BYTES = 64, TASKS_PER_THREAD = 4, SAMPLES_LEAST = 256, FEW_SAMPLES = 1024 };

static int64_t k_most(const ks_device *device)
{
    return (device->l2_bytes > 0 ? device->l2_bytes : 512 << 10) / 2;
}

/* Weights of one super-block in order. */
static int64_t block_bytes(const ks_problem *p)
{
    const int64_t lanes = ks_fused_core_for(p->type)->lanes;
    return ks_round_up(p->b * p->d, lanes) * p->c * (p->type == KS_F64 ? 8 : 4);
}

/* The weights of a super-block must stay in cache, and be used often enough to be worth putting in order. */
static bool supports(const ks_problem *p, const ks_device *device)
{
    const ks_fused_core *core = ks_fused_core_for(p->type);
    return device->backend == KS_CPU && p->layout == KS_BATCH_FIRST && p->d < core->lanes &&
           core->lanes % p->d == 0 && p->batch >= 4 * core->rows && p->b * p->d >= core->lanes &&
           p->b <= k_most(device) && p->c <= k_most(device) && block_bytes(p) <= k_most(device);
}

static ks_rows_plan plan_of(const ks_problem *p, const ks_device *device)
{
    const ks_fused_core *core = ks_fused_core_for(p->type);
    const int64_t size = (int64_t)ks_type_bytes(p->type), real = p->type == KS_F64 ? 8 : 4;
    const int64_t units = device->units, most = ks_max(1, ks_min(k_most(device) / block_bytes(p), p->a));
    ks_rows_plan plan = {.vectors = ks_ceil_div(p->b * p->d, core->lanes), .tasks_i = ks_ceil_div(p->a, most)};
    /* Threads share the super-blocks evenly, also where the samples are too few for weights to be put in order twice;
     * else samples, so that a thread reads them from end to end. */
    if (plan.tasks_i > 1 || p->batch < FEW_SAMPLES) plan.tasks_i = ks_min(ks_round_up(plan.tasks_i, units), p->a);
    plan.ig = ks_ceil_div(p->a, plan.tasks_i);
    plan.tasks_i = ks_ceil_div(p->a, plan.ig);
    const int64_t wanted = ks_ceil_div(units * TASKS_PER_THREAD, plan.tasks_i);
    plan.tasks_n = ks_max(1, ks_min(wanted, p->batch / SAMPLES_LEAST));
    if (plan.tasks_i * plan.tasks_n < units) /* idle threads cost more than weights put in order again */
        plan.tasks_n = ks_max(1, ks_min(ks_ceil_div(units, plan.tasks_i), p->batch / core->rows));
    plan.stream = (double)ks_y_count(p) * (double)size > KS_FUSED_STREAM_BYTES;
    plan.k_bytes = (size_t)(plan.ig * block_bytes(p));
    plan.x_bytes = size == real ? 0 : (size_t)ks_round_up(core->rows * plan.ig * p->c * p->d * real, LINE_BYTES);
    return plan;
}

static size_t workspace_bytes(const ks_problem *p, const ks_device *device)
{
    const ks_rows_plan plan = plan_of(p, device);
    return (size_t)device->units * (plan.k_bytes + plan.x_bytes);
}

static void cost_terms(const ks_problem *p, const ks_device *device, double terms[KS_NTERMS])
{
    const ks_rows_plan plan = plan_of(p, device);
    const ks_fused_core *core = ks_fused_core_for(p->type);
    const double tasks = (double)(plan.tasks_i * plan.tasks_n);
    const double units = ks_cpu_is_wide(p) ? (double)device->units : 1;
    const double rounds = (double)ks_ceil_div((int64_t)tasks, (int64_t)units), idle = rounds * units / tasks;
    const double outputs = (double)(p->a * plan.vectors * core->lanes);
    const double samples = (double)(plan.tasks_n * ks_round_up(ks_ceil_div(p->batch, plan.tasks_n), core->rows));
    const bool widened = ks_type_bytes(p->type) < sizeof(float);
    terms[KS_TERM_LAUNCH] = 1;
    terms[KS_TERM_BYTES] =
        ks_problem_bytes(p) + (plan.stream ? 0 : (double)ks_y_count(p) * (double)ks_type_bytes(p->type));
    terms[KS_TERM_FLOPS] = 2 * samples * outputs * (double)p->c * idle;
    terms[KS_TERM_SHUFFLE] = (double)plan.tasks_n * outputs * (double)p->c * idle +
                             (widened ? (double)(ks_x_count(p) + ks_y_count(p)) : 0);
    terms[KS_TERM_CALLS] = samples / core->rows * (double)(p->a * ks_ceil_div(plan.vectors, 3)) / units * idle;
}

static ks_status run(const ks_problem *p, const ks_run_args *args)
{
    ks_rows_plan plan = plan_of(p, args->device);
    if (!ks_fused_whole_lines(p)) plan.stream = false;
    ks_rows_job job = {p, &plan, args->x, args->k, args->y, args->workspace, args->epilogue};
    ks_pool_run(plan.tasks_i * plan.tasks_n, ks_cpu_alone_s(p), ks_fused_core_for(p->type)->rows_task, &job);
    return KS_OK;
}

const ks_kernel ks_fused_cpu_rows = {"fused.cpu.rows", KS_FUSED,        KS_CPU,     1,
                                     supports,         workspace_bytes, cost_terms, run};
