/* Splitting cases by pattern, fitting to one part, advising on the other.
 *
 * The process's variances rest on its assumptions, and where those fail (the published energies are smoother than the prior
 * allows for, with jumps that it does not expect) it is too sure of itself. So each fit is cross-validated, and one factor
 * of all deviations, the caution, is chosen by what happened. */
#include "validate.h"
#include "error.h"
#include "learners.h"
#include "random.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

const char *ks_learner_name(ks_learner learner)
{
    static const char *const names[] = {"gp", "cost", "ridge", "nearest"};
    return (unsigned)learner < KS_NLEARNERS ? names[learner] : NULL;
}

/* A random number for each pattern, other ones in each draw. */
static uint64_t key_of(const ks_problem *p, int draw)
{
    const uint64_t key =
        ks_mix(ks_mix(ks_mix(ks_mix((uint64_t)p->a) ^ (uint64_t)p->b) ^ (uint64_t)p->c) ^ (uint64_t)p->d);
    return draw ? ks_mix(key ^ (uint64_t)draw) : key;
}

static int compare_keys(const void *x, const void *y)
{
    const uint64_t a = *(const uint64_t *)x, b = *(const uint64_t *)y;
    return (a > b) - (a < b);
}

/* The train-th smallest key among the patterns of the cases: those up to it are drawn. */
static uint64_t last_drawn(const ks_cases *cases, int train, int draw, uint64_t *keys)
{
    int patterns = 0;
    for (int i = 0; i < cases->count; i++) keys[i] = key_of(&cases->items[i].problem, draw);
    qsort(keys, (size_t)cases->count, sizeof *keys, compare_keys);
    for (int i = 0; i < cases->count; i++)
        if ((i == 0 || keys[i] != keys[i - 1]) && ++patterns == train) return keys[i];
    return UINT64_MAX;
}

/* How to learn from a part: like this model, or anew. */
typedef struct course {
    ks_learner learner;
    const ks_model *like;
    const ks_origin *origin; /* as ks_fit_options has it */
} course;

static ks_status learn_and_advise(const ks_cases *train, const ks_cases *others, const ks_device *device,
                                  const course *how, ks_heldout *out)
{
    ks_model *model;
    double regret;
    const ks_fit_options options = {.start = how->like,
                                    .origin = how->origin,
                                    .search_steps = how->like ? 0 : KS_FIT_STEPS,
                                    .seed = (uint64_t)train->count};
    ks_status s = how->like || how->learner != KS_LEARN_GP
                      ? ks_fit(train, device, &options, &model)
                      : ks_fit_validated(train, device, &options, &model, &regret);
    if (s != KS_OK) return s;
    s = how->learner == KS_LEARN_GP ? ks_heldout_advise_all(out, others, device, model)
                                    : ks_learn_and_advise(how->learner, model, train, device, others, out);
    ks_model_free(model);
    return s;
}

static ks_status validate(const ks_cases *cases, const ks_device *device, const course *how, const ks_split *split,
                          ks_heldout *out)
{
    const size_t room = (size_t)cases->count + 1;
    ks_cases train = *cases, others = *cases;
    train.items = malloc(room * sizeof *train.items);
    others.items = malloc(room * sizeof *others.items);
    uint64_t *keys = malloc(room * sizeof *keys);
    ks_status s = train.items && others.items && keys ? KS_OK : ks_fail(KS_ERR_MEMORY, "out of memory for the folds");
    ks_origin origin = how->origin ? *how->origin : (ks_origin){0};
    origin.withheld[origin.withheld[0] != NULL] = &others;
    const course judged = {.learner = how->learner, .like = how->like, .origin = &origin};
    const int turns = split->train > 0 ? split->draws : split->folds;
    int learned = 0;
    for (int turn = 0; s == KS_OK && turn < turns; turn++) {
        const uint64_t last = split->train > 0 ? last_drawn(cases, split->train, turn + 1, keys) : 0;
        train.count = others.count = 0;
        for (int i = 0; i < cases->count; i++) {
            const ks_case *c = &cases->items[i];
            const bool in = split->train > 0 ? key_of(&c->problem, turn + 1) <= last
                                             : key_of(&c->problem, 0) % (uint64_t)split->folds != (uint64_t)turn;
            if (in)
                train.items[train.count++] = *c;
            else
                others.items[others.count++] = *c;
        }
        s = learn_and_advise(&train, &others, device, &judged, out);
        if (s == KS_ERR_NO_DATA)
            s = KS_OK; /* too few in this part */
        else
            learned++;
    }
    if (s == KS_OK && !learned) s = ks_fail(KS_ERR_NO_DATA, "%d problems are too few to be split", cases->count);
    free(train.items);
    free(others.items);
    free(keys);
    return s;
}

ks_status ks_validate(const ks_cases *cases, const ks_device *device, ks_learner learner, const ks_origin *origin,
                      const ks_split *split, ks_heldout *out)
{
    return validate(cases, device, &(course){.learner = learner, .origin = origin}, split, out);
}

ks_status ks_fit_validated(const ks_cases *cases, const ks_device *device, const ks_fit_options *options,
                           ks_model **model, double *regret)
{
    ks_heldout h;
    *regret = NAN;
    ks_status s = ks_fit(cases, device, options, model);
    if (s != KS_OK) return s;
    (*model)->caution = 1;
    ks_heldout_open(&h, cases);
    s = validate(cases, device, &(course){.like = *model, .origin = options->origin},
                 &(ks_split){.folds = KS_VALIDATION_FOLDS}, &h);
    if (s == KS_OK) {
        *regret = ks_cases_regret(&h.cases, h.chosen, NULL).mean;
        (*model)->caution = ks_heldout_caution(&h);
    }
    ks_heldout_close(&h);
    if (s == KS_OK || s == KS_ERR_NO_DATA) return KS_OK; /* too few to split are no failure of the fit */
    ks_model_free(*model);
    *model = NULL;
    return s;
}
