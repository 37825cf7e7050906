/* The numbers behind the pictures: advice for patterns that the models behind it have not seen.
 *
 * Showing a model on what it was fitted to would flatter it. So everything is cross-validated by pattern; and what the calibration
 * learnt is told by playing it back: fitted to what had been measured by a moment, judged by a fifth of the patterns that is
 * withheld from all the fits. */
#include "study.h"

#include "error.h"
#include "fit.h"
#include "refit.h"
#include "validate.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Longer than that between two measurements is a pause, another run. */
static const double longest_gap_s = 5;

enum { FOLDS = 5, FEWEST = 20 };

static bool is_withheld(const ks_problem *p)
{
    uint64_t z = 0;
    const int64_t sizes[] = {p->a, p->b, p->c, p->d};
    for (int i = 0; i < 4; i++) z = (z ^ (uint64_t)sizes[i]) * 0x9e3779b97f4a7c15u, z ^= z >> 29;
    return z % 5 == 0;
}

static int compare_moments(const void *x, const void *y)
{
    const ks_measurement *a = x, *b = y;
    return (a->measured_at_s > b->measured_at_s) - (a->measured_at_s < b->measured_at_s);
}

/* When each row was made, in seconds of measuring since the first. Rows of a known moment are sorted by it; false if there are
 * none, or if they are all of one. */
static bool play_time(ks_rows *rows, double *at)
{
    qsort(rows->items, rows->count, sizeof *rows->items, compare_moments);
    for (size_t i = 0; i < rows->count; i++) {
        const double gap = i ? rows->items[i].measured_at_s - rows->items[i - 1].measured_at_s : 0;
        at[i] = i ? at[i - 1] + fmin(gap, longest_gap_s) : 0;
    }
    return rows->count && rows->items[0].measured_at_s > 0 && at[rows->count - 1] > 1;
}

/* From the first to the last measurement of this type (or its twin) and layout. */
static void span(const study *s, const ks_rows *rows, const double *at, double *from, double *to)
{
    const ks_type twin = ks_refit_twin(s->device, s->type);
    bool begun = false;
    for (size_t i = 0; i < rows->count; i++) {
        const ks_problem *p = &rows->items[i].problem;
        if ((p->type != s->type && p->type != twin) || p->layout != s->layout) continue;
        if (!begun) *from = at[i];
        *to = at[i], begun = true;
    }
}

/* The cases of the first rows; those of withheld patterns, or the others. */
static ks_status some_cases(const study *s, const ks_rows *rows, size_t first, bool withheld, ks_cases *cases)
{
    const ks_rows part = {.items = rows->items, .count = first};
    const ks_status status = ks_refit_cases(&part, s->device, s->type, s->layout, KS_TIME, cases);
    int kept = 0;
    for (int i = 0; status == KS_OK && i < cases->count; i++)
        if (is_withheld(&cases->items[i].problem) == withheld) cases->items[kept++] = cases->items[i];
    if (status == KS_OK) cases->count = kept;
    return status;
}

/* One more step: what the first rows teach. Too few of them are none. */
static ks_status learn(study *s, const ks_rows *rows, size_t first, double seconds, const ks_cases *judges)
{
    ks_cases cases;
    ks_model *model = NULL;
    ks_heldout held;
    const ks_fit_options options = {.search_steps = KS_FIT_QUICK_STEPS, .seed = 1};
    ks_status status = some_cases(s, rows, first, false, &cases);
    if (status != KS_OK) return status;
    ks_heldout_open(&held, judges);
    const int problems = cases.count;
    status = problems < FEWEST / 2 ? KS_ERR_NO_DATA : ks_fit(&cases, s->device, &options, &model);
    if (status == KS_OK) status = ks_heldout_advise_all(&held, judges, s->device, model);
    if (status == KS_OK) {
        const ks_regret regret = ks_cases_regret(&held.cases, held.chosen, NULL);
        s->step[s->steps++] = (study_step){.seconds = seconds, .regret = regret.mean, .problems = problems};
    }
    ks_heldout_close(&held);
    ks_model_free(model);
    ks_cases_free(&cases);
    return status == KS_ERR_NO_DATA ? KS_OK : status;
}

static ks_status play_back(study *s, const ks_rows *all)
{
    ks_cases judges = {0};
    ks_acceptance fixed = {0};
    ks_rows rows = {.items = malloc((all->count + 1) * sizeof *all->items), .count = all->count};
    double *at = malloc((all->count + 1) * sizeof *at);
    int *chosen = NULL;
    ks_status status = rows.items && at ? KS_OK : ks_fail(KS_ERR_MEMORY, "out of memory for %zu rows", all->count);
    if (status != KS_OK) goto done;
    memcpy(rows.items, all->items, all->count * sizeof *all->items);
    if (!play_time(&rows, at)) goto done;
    status = some_cases(s, &rows, rows.count, true, &judges);
    if (status != KS_OK || judges.count < FEWEST) goto done;
    chosen = malloc((size_t)judges.count * sizeof *chosen);
    if (!chosen) status = ks_fail(KS_ERR_MEMORY, "out of memory for %d choices", judges.count);
    if (status != KS_OK) goto done;
    ks_cases_judge_static(&judges, chosen, &fixed);
    s->judged = judges.count, s->step_fused = fixed.always_fused.mean, s->step_bmm = fixed.always_bmm.mean;
    double from = 0, to = 0;
    span(s, &rows, at, &from, &to);
    for (int i = STUDY_STEPS - 1; status == KS_OK && i >= 0; i--) {
        const double seconds = (to - from) / (1 << i);
        size_t first = 0;
        while (first < rows.count && at[first] <= from + seconds) first++;
        status = learn(s, &rows, first, seconds, &judges);
    }
done:
    ks_cases_free(&judges);
    free(rows.items);
    free(chosen);
    free(at);
    return status;
}

ks_status study_make(study *s, const ks_rows *rows)
{
    ks_cases *cases = &s->cases;
    const ks_split split = {.folds = FOLDS};
    ks_status status = ks_refit_cases(rows, s->device, s->type, s->layout, KS_TIME, cases);
    if (status != KS_OK) return status;
    ks_heldout_open(&s->held, cases);
    status = cases->count < FEWEST
                 ? ks_fail(KS_ERR_NO_DATA, "%d problems measured, %d at least are needed", cases->count, FEWEST)
                 : ks_validate(cases, s->device, KS_LEARN_GP, NULL, &split, &s->held);
    if (status == KS_OK) status = ks_heldout_judge(&s->held, &s->acceptance);
    if (status != KS_OK) return status;
    ks_heldout_reliability(&s->held, &s->reliability);
    return play_back(s, rows);
}

void study_free(study *s)
{
    ks_heldout_close(&s->held);
    ks_cases_free(&s->cases);
}
