/* Each thread remembers what it planned last: a decision asks for the same plan several times, and a launch cannot wait for
 * it. */
#ifndef KS_PLAN_MEMORY_CUH
#define KS_PLAN_MEMORY_CUH

extern "C" {
#include "cuda_device.h"
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

} // namespace ks_cuda

#endif
