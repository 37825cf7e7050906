/* Plans: each thread remembers what it planned last, since a decision asks for the same plan several times, and a launch cannot wait
 * for it; and how a planned kernel runs. */
#ifndef KS_PLAN_MEMORY_CUH
#define KS_PLAN_MEMORY_CUH

extern "C" {
#include "cuda_device.h"
#include "rows.h"
}

namespace ks_cuda
{

/* The plan that `make` makes for a problem on a device, or NULL where it says that there is none. It stays until another
 * problem's takes its place. */
template <class Plan, bool (*make)(const ks_problem *, const ks_device *, Plan *)>
const Plan *remembered_plan(const ks_problem *p, const ks_device *device)
{
    enum { REMEMBERED = 64 };
    struct memory {
        ks_problem problem;
        int units, arch;
        bool known, possible;
        Plan best;
    };
    static thread_local memory remembered[REMEMBERED];
    const int arch = ks_cuda_arch(device);
    uint64_t hash = 0;
    for (const int64_t v : {p->a, p->b, p->c, p->d, p->batch, (int64_t)p->type, (int64_t)p->layout, (int64_t)p->math})
        hash = (hash ^ (uint64_t)v) * 0x9e3779b97f4a7c15u;
    memory *m = &remembered[hash >> 58];
    const ks_problem *q = &m->problem;
    if (!m->known || q->a != p->a || q->b != p->b || q->c != p->c || q->d != p->d || q->batch != p->batch ||
        q->type != p->type || q->layout != p->layout || q->math != p->math || m->units != device->units ||
        m->arch != arch) {
        *m = {};
        m->problem = *p, m->units = device->units, m->arch = arch, m->known = true;
        m->possible = make(p, device, &m->best);
    }
    return m->possible ? &m->best : NULL;
}

/* Launches what plan_of says. Problems that it has no plan for, and arrays that do not begin at multiples of 16 bytes, as copies and
 * stores want them, go the general way. */
template <class Plan, const Plan *(*plan_of)(const ks_problem *, const ks_device *),
          ks_status (*launch)(const ks_problem *, const ks_run_args *, const Plan &)>
ks_status run_planned(const ks_problem *p, const ks_run_args *args)
{
    const bool whole = ((uintptr_t)args->x | (uintptr_t)args->k | (uintptr_t)args->y) % 16 == 0;
    const Plan *best = whole ? plan_of(p, args->device) : NULL;
    if (!best) return ks_fused_cuda_simt.run(p, args);
    int previous;
    ks_status s = ks_cuda_enter(args->device, &previous);
    if (s != KS_OK) return s;
    s = launch(p, args, *best);
    ks_cuda_leave(previous);
    return s;
}

} // namespace ks_cuda

#endif
