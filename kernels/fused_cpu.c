/* fused.cpu: how a problem is cut into tasks for the core (fused_core.c), and what that costs.
 *
 * A task should (1) touch memory in runs of whole cache lines: hence groups of super-blocks where c*d is short, and of
 * neighbouring l's; (2) keep its packed X and its output tile in L2, and find K there again for its next tile of the
 * batch; (3) be one of enough tasks for every thread. The plan is a few divisions, so it is made anew in every call. */
#include "fused_core.h"
#include "error.h"
#include "pool.h"
#include "rows.h"
#include "sizes.h"

enum {
    PAGE_BYTES = 4096,
    RUN_BYTES = 256,
    GROUP_BYTES = 1024,
    LINE_BYTES = 64,
    TASKS_PER_THREAD = 16,
    FEW_TASKS = 2
};

const ks_fused_core *ks_fused_core_for(ks_type type)
{
    const bool f64 = type == KS_F64;
#if defined(__x86_64__)
    if (ks_cpu_has_avx512()) return f64 ? &ks_fused_core_avx512_f64 : &ks_fused_core_avx512;
    if (ks_cpu_has_avx2()) return f64 ? &ks_fused_core_avx2_f64 : &ks_fused_core_avx2;
#endif
    return f64 ? &ks_fused_core_portable_f64 : &ks_fused_core_portable;
}

bool ks_fused_whole_lines(const ks_problem *p)
{
    const int64_t size = (int64_t)ks_type_bytes(p->type);
    const int64_t row = p->layout == KS_BATCH_FIRST ? p->a * p->b * p->d : p->batch;
    return size >= (int64_t)sizeof(float) && row * size % LINE_BYTES == 0;
}

void ks_fused_copy(char *to, const char *from, size_t bytes)
{
    ks_fused_core_for(KS_F32)->copy(to, from, bytes);
}

/* The largest multiple of `step` not above `most`, but at least step and at most all. */
static int64_t fit(int64_t most, int64_t step, int64_t all)
{
    return ks_min(all, ks_max(step, most / step * step));
}

static void plan_make(const ks_problem *p, const ks_device *device, ks_fused_plan *plan)
{
    const ks_fused_core *core = ks_fused_core_for(p->type);
    const int64_t size = (int64_t)ks_type_bytes(p->type), real = p->type == KS_F64 ? 8 : 4;
    const int64_t l2 = device->l2_bytes > 0 ? device->l2_bytes : 512 << 10;
    const int64_t x_most = l2 / 2, y_most = l2 / 4, k_most = l2 / 2;

    const int64_t vectors = ks_ceil_div(p->batch, core->lanes);
    plan->n_tile = ks_ceil_div(vectors, ks_ceil_div(vectors, KS_FUSED_MAX_VECS)) * core->lanes;
    plan->dot = p->batch <= KS_FUSED_DOT_SAMPLES && (p->c >= core->lanes / 2 || p->batch <= KS_FUSED_PLAIN_SAMPLES) &&
                p->c * p->batch * real <= x_most / 2;
    /* Bytes of one packed row, and of the packed X of a block: spread over lanes, or padded along c. */
    const int64_t row = plan->n_tile * real;
    const int64_t x_block = plan->dot ? p->batch * ks_round_up(p->c, core->lanes) * real : p->c * row;

    /* How many elements must lie side by side for whole cache lines, and how many should: in batch-first, where a tile
     * touches a run in every sample, a page's worth, since it is page walks that short runs are slow by. */
    const bool first = p->layout == KS_BATCH_FIRST;
    const int64_t side = first ? size : size * ks_min(p->batch, RUN_BYTES);
    const int64_t line = ks_ceil_div(LINE_BYTES, side), want = ks_ceil_div(first ? PAGE_BYTES : RUN_BYTES, side);
    const int64_t by_x = x_most / x_block, by_k = k_most / real / p->b / p->c;
    int64_t lg = first ? ks_min(by_x, by_k) : ks_min(want, by_x);
    plan->lg = lg >= p->d ? p->d : fit(lg, line, p->d);
    plan->ig = 1;
    if (plan->lg == p->d) {
        int64_t most = ks_min(x_most / x_block / p->d, y_most / row / (p->b * p->d));
        most = ks_min(most, k_most / real / (p->b * p->c * p->d));
        if (plan->dot)
            most = ks_min(most, p->a / ((int64_t)device->units * FEW_TASKS)); /* rather than cut K's rows */
        plan->ig = ks_max(1, ks_min(ks_min(ks_ceil_div(want, ks_min(p->b, p->c) * p->d), most), p->a));
    }
    const int64_t blocks = plan->ig * plan->lg;
    /* All of c at once if it fits; dot tiles never cut it. */
    plan->k_slab = plan->dot || blocks * x_block <= x_most ? p->c : fit(x_most / row / blocks, KS_FUSED_SLICE, p->c);
    const int64_t x_bytes = plan->dot ? blocks * x_block : blocks * plan->k_slab * row;
    int64_t group = 1; /* tiles */
    if (!first && !plan->dot) {
        group = ks_min(ks_ceil_div(GROUP_BYTES, plan->n_tile * size), x_most / (blocks * plan->k_slab * row));
        group = ks_max(1, ks_min(group, y_most / (blocks * ks_min(p->b, core->rows) * row)));
        group = ks_min(group, ks_ceil_div(p->batch, plan->n_tile));
    }
    plan->n_group = group * plan->n_tile;
    /* Whole register tiles, and whole lines of Y where that much fits. */
    plan->j_chunk = fit(y_most / row / blocks / group, 2 * core->rows, p->b);
    if (blocks * plan->j_chunk * row * group > y_most) plan->j_chunk = ks_min(core->rows, p->b);

    plan->tasks_i = ks_ceil_div(p->a, plan->ig);
    plan->tasks_l = ks_ceil_div(p->d, plan->lg);
    const int64_t groups = plan->tasks_i * plan->tasks_l, tiles = ks_ceil_div(p->batch, plan->n_group);
    const int64_t wanted = (int64_t)device->units * TASKS_PER_THREAD;
    plan->n_task = ks_ceil_div(tiles, ks_min(tiles, ks_ceil_div(wanted, groups))) * plan->n_group;
    plan->tasks_n = ks_ceil_div(p->batch, plan->n_task);
    /* Reading X where it lies, time and again, wants rows that start on lines and do not all fall on the same sets of the
     * cache: neither on those of L1 nor, where a tile takes little of each, half of L2's ways on the few that are left. */
    const int64_t step = p->d * p->batch * size, even = step & -step;
    const bool crowded =
        step % PAGE_BYTES == 0 || (p->c * even > l2 / 2 && 4 * plan->lg * plan->n_group <= p->d * p->batch);
    plan->direct =
        !first && !plan->dot && size == real && (p->b <= core->rows || (step % LINE_BYTES == 0 && !crowded));
    plan->direct_y = !first && !plan->dot && size == real;
    /* Rows of K are shared out where there are too few tasks; among few and unequal ones, where no packing is done twice. */
    const int64_t so_far = groups * plan->tasks_n,
                  least = (int64_t)device->units * (plan->direct || plan->dot ? FEW_TASKS : 1);
    const int64_t splits = so_far >= least ? 1 : ks_ceil_div(least, so_far);
    plan->j_task = ks_min(p->b, ks_round_up(ks_ceil_div(p->b, splits), core->rows));
    plan->j_chunk = ks_min(plan->j_chunk, plan->j_task);
    plan->tasks_j = ks_ceil_div(p->b, plan->j_task);

    plan->cold_k = plan->n_task <= 2 * plan->n_tile; /* else K is found in cache */
    plan->own_y = !plan->dot;
    plan->stream = (double)ks_y_count(p) * (double)size > KS_FUSED_STREAM_BYTES;
    plan->x_bytes = (size_t)ks_round_up(x_bytes * group, LINE_BYTES);
    plan->y_bytes = (size_t)ks_round_up(blocks * plan->j_chunk * row * group, LINE_BYTES);
    plan->k_bytes = (size_t)(KS_FUSED_MAX_ROWS * KS_FUSED_SLICE * real);
}

/* One sample lies the same way in both layouts, and runs of batch-first are longer. */
static ks_problem as_it_lies(const ks_problem *p)
{
    ks_problem q = *p;
    if (q.batch == 1) q.layout = KS_BATCH_FIRST;
    return q;
}

/* The plan, remembered: ks_auto_matmul asks for the workspace's size and then runs. */
static const ks_fused_plan *plan_of(const ks_problem *p, const ks_device *device)
{
    static _Thread_local struct {
        ks_problem problem;
        int64_t l2_bytes;
        int units;
        ks_fused_plan plan;
    } last;
    const ks_problem *q = &last.problem;
    if (q->a != p->a || q->b != p->b || q->c != p->c || q->d != p->d || q->batch != p->batch || q->type != p->type ||
        q->layout != p->layout || last.l2_bytes != device->l2_bytes || last.units != device->units) {
        plan_make(p, device, &last.plan);
        last.problem = *p, last.l2_bytes = device->l2_bytes, last.units = device->units;
    }
    return &last.plan;
}

static bool supports(const ks_problem *problem, const ks_device *device)
{
    (void)problem;
    return device->backend == KS_CPU;
}

static size_t workspace_bytes(const ks_problem *problem, const ks_device *device)
{
    const ks_problem q = as_it_lies(problem);
    const ks_fused_plan *plan = plan_of(&q, device);
    return (size_t)device->units * (plan->x_bytes + plan->y_bytes + plan->k_bytes);
}

static void cost_terms(const ks_problem *problem, const ks_device *device, double terms[KS_NTERMS])
{
    const ks_problem q = as_it_lies(problem), *p = &q;
    const ks_fused_plan plan = *plan_of(p, device);
    const ks_fused_core *core = ks_fused_core_for(p->type);
    const double size = (double)ks_type_bytes(p->type);
    const double tasks = (double)(plan.tasks_i * plan.tasks_l * plan.tasks_n * plan.tasks_j);
    const double units = ks_cpu_is_wide(p) ? (double)device->units : 1;
    /* The last round of tasks leaves threads idle. */
    const double rounds = (double)ks_ceil_div((int64_t)tasks, (int64_t)units), idle = rounds * units / tasks;
    const double tiles = (double)ks_ceil_div(p->batch, plan.n_tile), blocks = (double)(p->a * p->d);
    const double samples = tiles * (double)plan.n_tile;
    const double height = (double)ks_round_up(p->b, core->rows);
    terms[KS_TERM_LAUNCH] = 1;
    terms[KS_TERM_BYTES] = ks_problem_bytes(p) + (plan.stream ? 0 : (double)ks_y_count(p) * size);
    terms[KS_TERM_FLOPS] = 2 * samples * blocks * height * (double)p->c * idle;
    terms[KS_TERM_SHUFFLE] =
        blocks * samples * (double)(p->b + p->c) * (p->layout == KS_BATCH_FIRST ? 1 : 0.25) * idle;
    terms[KS_TERM_CALLS] =
        tiles * blocks * height / core->rows * (double)ks_ceil_div(p->c, KS_FUSED_SLICE) / units * idle;
}

static ks_status run(const ks_problem *problem, const ks_run_args *args)
{
    const ks_problem q = as_it_lies(problem), *p = &q;
    ks_fused_plan plan = *plan_of(p, args->device);
    if (!ks_fused_whole_lines(p) || (uintptr_t)args->y % LINE_BYTES != 0) plan.stream = false;
    if (plan.stream) plan.own_y = false;
    if ((uintptr_t)args->x % ks_type_bytes(p->type) != 0) plan.direct = false;
    if ((uintptr_t)args->y % ks_type_bytes(p->type) != 0) plan.direct_y = false;
    if (args->epilogue) plan.direct_y = false; /* it is applied to tiles before they leave for y */
    ks_fused_job job = {p, &plan, args->x, args->k, args->y, args->workspace, args->epilogue};
    ks_pool_run(plan.tasks_i * plan.tasks_l * plan.tasks_n * plan.tasks_j, ks_cpu_alone_s(p),
                ks_fused_core_for(p->type)->task, &job);
    return KS_OK;
}

const ks_kernel ks_fused_cpu = {"fused.cpu", KS_FUSED, KS_CPU, 4, supports, workspace_bytes, cost_terms, run};
