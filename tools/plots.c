/* The pictures of `ksauto report`, as scripts for gnuplot.
 *
 * One colour has one meaning in all of them: blue is fused, orange is bmm, green is the advisor, grey the rest. As text on white they
 * have a contrast above 4.5. Blue and orange differ for all common kinds of colour blindness; green does not from both blue and grey,
 * so that lines differ by their dashes as well. Each picture is small enough to be read on a phone, so a page puts them side by
 * side rather than make them large. */
#include "study.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>

#define FUSED   "#005b96"
#define BMM     "#b04a00"
#define ADVISOR "#00694b"
#define GREY    "#595959"

enum { MOST_POINTS = 1200, MAP_POINTS = 70, MAPS = 4, ROWS = 8, COLUMNS = 8, BINS = 10 };

static const int64_t map_batches[MAPS] = {16, 256, 4096, 32768};
enum { MAP_WIDTH = 4096 }; /* of the layers in the map: a*b*d, where b*d is not more already */

/* The columns of the fastest measured kernel, of the one taken, and its family. */
static int best_of(const study *s, int i)
{
    return ks_case_best(&s->held.cases, &s->held.cases.items[i], -1);
}
static bool is_fused(const study *s, int column)
{
    return s->held.cases.kernel[column]->family == KS_FUSED;
}
static double ratio_of(const ks_problem *p)
{
    return (double)(p->b + p->c) / ((double)p->b * (double)p->c);
}

/* ---- Which path, where ---- */

/* By what factor (as a power of two) the best fused kernel is ahead of the best bmm one; NaN where there is but one family. */
static double lead_of_fused(const study *s, const ks_problem *p)
{
    ks_advice advice;
    double fused = NAN, bmm = NAN;
    if (ks_advise(s->ctx, p, &advice) != KS_OK) return NAN;
    for (int i = advice.candidate_count - 1; i >= 0; i--)
        *(advice.candidates[i].family == KS_FUSED ? &fused : &bmm) = advice.candidates[i].time_s;
    return log2(bmm / fused);
}

static ks_problem map_problem(const study *s, int map, int row, int column)
{
    const int64_t b = (int64_t)4 << row, d = (int64_t)1 << column, a = MAP_WIDTH / (b * d);
    return (ks_problem){
        .a = a > 1 ? a : 1, .b = b, .c = b, .d = d, .batch = map_batches[map], .type = s->type, .layout = s->layout};
}

static int nearest_map(const ks_problem *p)
{
    int best = 0;
    for (int m = 1; m < MAPS; m++)
        if (fabs(log((double)p->batch / (double)map_batches[m])) <
            fabs(log((double)p->batch / (double)map_batches[best])))
            best = m;
    return best;
}

/* Places by log2: of d, and of the b = c that has the same ratio. */
static void map_data(FILE *out, const study *s)
{
    const ks_cases *cases = &s->held.cases;
    for (int m = 0; m < MAPS; m++) {
        int here = 0, seen = 0;
        fprintf(out, "$map%d << END\n", m);
        for (int row = 0; row < ROWS; row++)
            for (int column = 0; column < COLUMNS; column++) {
                const ks_problem p = map_problem(s, m, row, column);
                const double lead = lead_of_fused(s, &p);
                if (!isnan(lead)) fprintf(out, "%d %d %.3f\n", column, row + 2, fmax(-2, fmin(2, lead)));
            }
        fprintf(out, "END\n$seen%d << END\n-9 -9 1\n", m); /* gnuplot wants one line at least; this one is outside */
        for (int i = 0; i < cases->count; i++) here += nearest_map(&cases->items[i].problem) == m;
        for (int i = 0; i < cases->count; i++) {
            const ks_problem *p = &cases->items[i].problem;
            if (nearest_map(p) != m || seen++ % (here / MAP_POINTS + 1)) continue;
            fprintf(out, "%.2f %.2f %d\n", log2((double)p->d), 1 - log2(ratio_of(p)), is_fused(s, best_of(s, i)));
        }
        fputs("END\n", out);
    }
}

static void map_script(FILE *out, const study *s)
{
    (void)s;
    fputs("set multiplot\nunset key\nunset colorbox\nset border 0\n"
          "set palette defined (-2 '#9c4100', -1 '#e8a36c', 0 '#f4f4f4', 1 '#83b5dc', 2 '" FUSED "')\n"
          "set cbrange [-2:2]\nset xrange [-0.5:7.5]\nset yrange [9.5:1.5]\nset tics scale 0\n"
          "set xtics ('1' 0, '2' 1, '4' 2, '8' 3, '16' 4, '32' 5, '64' 6, '128' 7)\n"
          "set xtics ('1' 0, '4' 2, '16' 4, '64' 6)\n",
          out);
    for (int m = 0; m < MAPS; m++) {
        const bool left = m % 2 == 0, bottom = m / 2 == 1;
        fprintf(out, "set lmargin at screen %g\nset rmargin at screen %g\n", left ? 0.155 : 0.585,
                left ? 0.555 : 0.985);
        fprintf(out, "set tmargin at screen %g\nset bmargin at screen %g\n", bottom ? 0.53 : 0.95,
                bottom ? 0.235 : 0.655);
        fputs(left ? "set ytics ('1/2' 2, '1/8' 4, '1/32' 6, '1/128' 8) textcolor rgb '#222222'\n" : "unset ytics\n",
              out);
        fprintf(out, "set title 'batch %" PRId64 "' offset 0,-0.7\n", map_batches[m]);
        fprintf(out, "set xlabel '%s' offset 0,0.4\n", bottom ? "d" : "");
        if (left) /* gnuplot leaves out the ylabel of a plot whose left margin is given */
            fprintf(out, "set label 1 '(b+c)/(bc)' at screen 0.03,%g center rotate by 90\n", bottom ? 0.38 : 0.8);
        else
            fputs("unset label 1\n", out);
        if (m == MAPS - 1)
            fputs("set colorbox horizontal user origin 0.2,0.075 size 0.72,0.03\n"
                  "set cbtics ('bmm 4x' -2, '2x' -1, 'tie' 0, '2x' 1, 'fused 4x' 2) offset 0,0.4\n",
                  out);
        fprintf(out,
                "plot $map%d using 1:2:(0.5):(0.5):3 with boxxyerror fillstyle solid noborder linecolor palette, \\\n"
                "  $seen%d using 1:2 with points pt 7 ps 0.62 lc rgb 'white', \\\n"
                "  $seen%d using 1:2:($3 > 0 ? 0x005b96 : 0xb04a00) with points pt 7 ps 0.36 lc rgb variable\n",
                m, m, m);
    }
    fputs("unset multiplot\n", out);
}

static void map_says(FILE *out, const study *s)
{
    int fused = 0, all = 0;
    for (int m = 0; m < MAPS; m++)
        for (int cell = 0; cell < ROWS * COLUMNS; cell++) {
            const ks_problem p = map_problem(s, m, cell / COLUMNS, cell % COLUMNS);
            const double lead = lead_of_fused(s, &p);
            fused += lead > 0, all += !isnan(lead);
        }
    fprintf(out, "Fused is predicted faster in %d of the map's %d cells.", fused, all);
}

/* ---- Predicted against measured ---- */

static void times_data(FILE *out, const study *s)
{
    const ks_cases *cases = &s->held.cases;
    for (int family = KS_FUSED; family <= KS_BMM; family++) {
        fprintf(out, "$times%d << END\n", family);
        for (int i = 0; i < cases->count; i += cases->count / MOST_POINTS + 1)
            for (int q = 0; q < cases->kernels; q++)
                if (cases->kernel[q]->family == (ks_family)family && !isnan(s->held.predicted[i][q]))
                    fprintf(out, "%.4g %.4g\n", cases->items[i].value[q], s->held.predicted[i][q]);
        fputs("END\n", out);
    }
}

static const char time_axes[] = "('1 us' 1e-6, '10 us' 1e-5, '100 us' 1e-4, '1 ms' 1e-3, '10 ms' 1e-2, '100 ms' 0.1, "
                                "'1 s' 1)";

static void times_script(FILE *out, const study *s)
{
    (void)s;
    fprintf(out,
            "set logscale xy\nset key top left reverse Left textcolor variable samplen 0.5\n"
            "set xlabel 'measured'\nset ylabel 'predicted' offset 1,0\nset xtics %s\nset ytics %s\n"
            "stats $times%d using 1 nooutput\nlow = STATS_min\nhigh = STATS_max\n"
            "stats $times%d using 1 nooutput\nlow = 0.8 * (STATS_min < low ? STATS_min : low)\n"
            "high = 1.25 * (STATS_max > high ? STATS_max : high)\nset xrange [low:high]\nset yrange [low:high]\n",
            time_axes, time_axes, KS_FUSED, KS_BMM);
    fprintf(out,
            "plot x title '' with lines lw 1 lc rgb '" GREY "', \\\n"
            "  $times%d title 'bmm kernels' with points pt 7 ps 0.28 lc rgb '" BMM "', \\\n"
            "  $times%d title 'fused kernels' with points pt 7 ps 0.28 lc rgb '" FUSED "'\n",
            KS_BMM, KS_FUSED);
}

static void times_says(FILE *out, const study *s)
{
    const ks_cases *cases = &s->held.cases;
    int all = 0, near = 0, twice = 0;
    for (int i = 0; i < cases->count; i++)
        for (int q = 0; q < cases->kernels; q++) {
            const double off = fabs(log(s->held.predicted[i][q] / cases->items[i].value[q]));
            if (isnan(off)) continue;
            all++, near += off<log(1.2), twice += off> log(2);
        }
    fprintf(out,
            "%.0f %% of %d predicted times are within 20 %% of the measured ones, %.1f %% are off by more than a "
            "factor of two.",
            100.0 * near / all, all, 100.0 * twice / all);
}

/* ---- Regret ---- */

static int compare_doubles(const void *x, const void *y)
{
    const double a = *(const double *)x, b = *(const double *)y;
    return (a > b) - (a < b);
}

/* The share of problems on which a policy loses at least so much, at every loss that there is. */
static void write_losses(FILE *out, const study *s, const char *name, const int *chosen)
{
    const ks_cases *cases = &s->held.cases;
    double *losses = malloc(((size_t)cases->count + 1) * sizeof *losses);
    int count = 0;
    for (int i = 0; losses && i < cases->count; i++) {
        const ks_case *c = &cases->items[i];
        if (chosen[i] < 0 || isnan(c->value[chosen[i]])) continue;
        losses[count++] = c->value[chosen[i]] / c->value[best_of(s, i)] - 1;
    }
    if (losses) qsort(losses, (size_t)count, sizeof *losses, compare_doubles);
    fprintf(out, "$%s << END\n", name);
    for (int i = 0; i < count; i++)
        if (losses[i] >= 0.01 || i == count - 1)
            fprintf(out, "%.4g %.4g\n", fmax(losses[i], 0.01), (double)(count - i) / count);
    fputs("END\n", out);
    free(losses);
}

static void regret_data(FILE *out, const study *s)
{
    double threshold;
    int *chosen = malloc(((size_t)s->held.cases.count + 1) * sizeof *chosen);
    write_losses(out, s, "advisor", s->held.chosen);
    if (!chosen) return;
    ks_cases_choose_family(&s->held.cases, KS_FUSED, chosen);
    write_losses(out, s, "fused", chosen);
    ks_cases_choose_family(&s->held.cases, KS_BMM, chosen);
    write_losses(out, s, "bmm", chosen);
    ks_cases_choose_ratio(&s->held.cases, chosen, &threshold);
    write_losses(out, s, "ratio", chosen);
    free(chosen);
}

static void regret_script(FILE *out, const study *s)
{
    (void)s;
    fputs("set logscale x\nset xrange [0.01:10]\nset yrange [0:*]\n"
          "set xtics ('1 %%' 0.01, '3 %%' 0.03, '10 %%' 0.1, '30 %%' 0.3, '100 %%' 1, '300 %%' 3)\n"
          "set ytics ('0' 0, '20 %%' 0.2, '40 %%' 0.4, '60 %%' 0.6, '80 %%' 0.8, '100 %%' 1)\n"
          "set xlabel 'loses at least'\nset ylabel 'share of problems' offset 0.5,0\n"
          "set key above vertical maxrows 2 width -3 textcolor variable samplen 3\n"
          "plot $ratio title 'best (b+c)/(bc) rule' with fsteps lw 4 dt '.' lc rgb '" GREY "', \\\n"
          "  $bmm title 'always bmm' with fsteps lw 2 dt '-' lc rgb '" BMM "', \\\n"
          "  $fused title 'always fused' with fsteps lw 2 dt '_.' lc rgb '" FUSED "', \\\n"
          "  $advisor title 'advisor' with fsteps lw 3.5 lc rgb '" ADVISOR "'\n",
          out);
}

static void regret_says(FILE *out, const study *s)
{
    const ks_acceptance *a = &s->acceptance;
    fprintf(
        out,
        "Mean regret of the advisor %.2g %%, of always fused %.2g %%, of always bmm %.2g %%, of the best ratio rule "
        "%.2g %%, on %d problems.",
        100 * a->advisor.mean, 100 * a->always_fused.mean, 100 * a->always_bmm.mean, 100 * a->ratio.mean,
        a->advisor.problems);
}

/* ---- How honest P(fused faster) is ---- */

static void honesty_data(FILE *out, const study *s)
{
    const ks_cases *cases = &s->held.cases;
    double said[BINS] = {0};
    int count[BINS] = {0}, won[BINS] = {0}, most = 1;
    for (int i = 0; i < cases->count; i++) {
        const double p = ks_lead_probability(s->held.lead[i]);
        if (isnan(p)) continue;
        const int bin = p < 1 ? (int)(p * BINS) : BINS - 1;
        said[bin] += p, won[bin] += is_fused(s, best_of(s, i));
        if (++count[bin] > most) most = count[bin];
    }
    fputs("$honesty << END\n", out);
    for (int b = 0; b < BINS; b++) {
        if (!count[b]) continue;
        /* Wilson's interval of 90 %: honest about few problems, and about shares of 0 and 1. */
        const double n = count[b], share = won[b] / n, z = 1.645, z2 = z * z / n;
        const double middle = (share + z2 / 2) / (1 + z2),
                     half = z * sqrt(share * (1 - share) / n + z2 / (4 * n)) / (1 + z2);
        fprintf(out, "%.4f %.4f %.4f %.4f %d %.4f\n", said[b] / n, share, middle - half, middle + half, count[b],
                n / most);
    }
    fputs("END\n", out);
}

static void honesty_script(FILE *out, const study *s)
{
    (void)s;
    fputs("set xrange [0:1]\nset yrange [0:1]\nunset key\n"
          "set xtics ('0' 0, '20 %%' 0.2, '40 %%' 0.4, '60 %%' 0.6, '80 %%' 0.8, '100 %%' 1)\n"
          "set ytics ('0' 0, '20 %%' 0.2, '40 %%' 0.4, '60 %%' 0.6, '80 %%' 0.8, '100 %%' 1)\n"
          "set xlabel 'P(fused faster), as said'\nset ylabel 'fused was faster' offset 0.5,0\n"
          "set boxwidth 0.05\n"
          "set label 'grey bars: how often it is said' at graph 0.03,0.95 left textcolor rgb '" GREY "'\n"
          "plot $honesty using 1:(0.25*$6) with boxes fillstyle solid border lc rgb '#767676' lc rgb '#dddddd', \\\n"
          "  x with lines lw 1 lc rgb '" GREY "', \\\n"
          "  $honesty using 1:2:3:4 with yerrorbars pt 7 ps 0.8 lw 2 lc rgb '" ADVISOR "'\n",
          out);
}

static void honesty_says(FILE *out, const study *s)
{
    int sure = 0, right = 0;
    for (int i = 0; i < s->held.cases.count; i++) {
        const double p = ks_lead_probability(s->held.lead[i]);
        if (isnan(p) || fmax(p, 1 - p) < 0.9) continue;
        sure++, right += (p > 0.5) == is_fused(s, best_of(s, i));
    }
    fprintf(out,
            "Of %d advices that were sure by 90 %% or more, %.1f %% were right; the Brier score of all %d is %.3f.",
            sure, sure ? 100.0 * right / sure : 0, s->reliability.count, s->reliability.brier);
}

/* ---- Time over the roofline ---- */

static const double most_over = 300; /* the upper end: tiny problems, of which one lies far above */

/* A problem's measured time by the kernel that the advice takes, in roofline times. */
static double over_roofline(const study *s, int i)
{
    const ks_case *c = &s->held.cases.items[i];
    return c->value[s->held.chosen[i]] / ks_roofline_s(s->device, &c->problem);
}

static void roofline_data(FILE *out, const study *s)
{
    const ks_cases *cases = &s->held.cases;
    for (int family = KS_FUSED; family <= KS_BMM; family++) {
        fprintf(out, "$roofline%d << END\n1 -1\n", family);
        for (int i = 0; i < cases->count; i += cases->count / MOST_POINTS + 1) {
            const ks_problem *p = &cases->items[i].problem;
            if (is_fused(s, s->held.chosen[i]) == (family == KS_FUSED))
                fprintf(out, "%.4g %.4g\n", ks_problem_flops(p) / ks_problem_bytes(p), over_roofline(s, i));
        }
        fputs("END\n", out);
    }
}

static void roofline_script(FILE *out, const study *s)
{
    const double balance = s->device->gemm_flops_per_s[s->type] / s->device->copy_bytes_per_s;
    fprintf(out,
            "set logscale xy\nset yrange [0.5:%g]\nset key above textcolor variable samplen 0.5\n"
            "set xlabel 'flops a byte'\nset ylabel 'time / roofline time' offset 1,0\n"
            "set ytics ('0.5' 0.5, '1' 1, '2' 2, '5' 5, '10' 10, '20' 20, '50' 50, '100' 100, '200' 200)\n"
            "set arrow from graph 0, first 1 to graph 1, first 1 nohead lw 1.5 lc rgb '" GREY "'\n"
            "set arrow from first %g, graph 0 to first %g, graph 1 nohead dt 2 lw 1 lc rgb '" GREY "'\n"
            "plot $roofline%d title 'takes bmm' with points pt 7 ps 0.3 lc rgb '" BMM "', \\\n"
            "  $roofline%d title 'takes fused' with points pt 7 ps 0.3 lc rgb '" FUSED "'\n",
            most_over, balance, balance, KS_BMM, KS_FUSED);
}

static void roofline_says(FILE *out, const study *s)
{
    const int count = s->held.cases.count;
    double *over = malloc(((size_t)count + 1) * sizeof *over);
    if (!over) return;
    for (int i = 0; i < count; i++) over[i] = over_roofline(s, i);
    qsort(over, (size_t)count, sizeof *over, compare_doubles);
    int beyond = 0;
    while (beyond < count && over[count - 1 - beyond] > most_over) beyond++;
    fprintf(out,
            "What the advisor takes needs %.2f times the roofline time in the median, %.1f times at the 95th "
            "percentile. Beyond the picture's upper end: %d of %d problems.",
            over[(count - 1) / 2], over[(int)ceil(0.95 * count) - 1], beyond, count);
    free(over);
}

/* ---- What calibrating taught ---- */

static void learned_data(FILE *out, const study *s)
{
    fputs("$learned << END\n", out);
    for (int i = 0; i < s->steps; i++)
        fprintf(out, "%.4g %.4g %d\n", s->step[i].seconds, 100 * s->step[i].regret, s->step[i].problems);
    fputs("END\n", out);
}

static void learned_script(FILE *out, const study *s)
{
    const double fixed[] = {100 * s->step_fused, 100 * s->step_bmm};
    static const char *const names[] = {"always fused", "always bmm"}, *const colours[] = {FUSED, BMM};
    if (s->steps == 0) {
        fputs("set label 'the moments of the measurements are not known' at graph 0.5,0.5 center\n"
              "set xrange [0:1]\nset yrange [0:1]\nunset tics\nunset key\nplot NaN\n",
              out);
        return;
    }
    double low = INFINITY, high = fmax(fixed[0], fixed[1]);
    for (int i = 0; i < s->steps; i++) {
        low = fmin(low, 100 * s->step[i].regret), high = fmax(high, 100 * s->step[i].regret);
    }
    for (int i = 0; i < 2; i++)
        if (fixed[i] > 0) low = fmin(low, fixed[i]);
    fprintf(out, "set xrange [%g:%g]\nset yrange [%g:%g]\n", s->step[0].seconds / 1.3,
            s->step[s->steps - 1].seconds * 1.3, low / 1.7, high * 1.7);
    fputs("set logscale xy\nunset key\nset xlabel 'seconds of measuring'\nset ylabel 'mean regret' offset 0.5,0\n"
          "set xtics ('1' 1, '2' 2, '4' 4, '8' 8, '15' 15, '30' 30, '60' 60, '120' 120, '240' 240, '480' 480, '960' "
          "960, "
          "'1920' 1920)\nset ytics ('0.5 %%' 0.5, '1 %%' 1, '2 %%' 2, '5 %%' 5, '10 %%' 10, '20 %%' 20, '50 %%' 50, "
          "'100 %%' 100, '200 %%' 200, '500 %%' 500)\n",
          out);
    for (int i = 0; i < 2; i++)
        if (fixed[i] > 0)
            fprintf(out,
                    "set label '%s' at graph 0.5, first %g center offset 0,0.55 textcolor rgb '%s'\n"
                    "set arrow from graph 0, first %g to graph 1, first %g nohead dt 2 lw 1.5 lc rgb '%s'\n",
                    names[i], fixed[i], colours[i], fixed[i], fixed[i], colours[i]);
    const int ends[] = {0, s->steps - 1}, beside[] = {s->steps > 1, s->steps > 1 ? s->steps - 2 : 0};
    for (int i = 0; i < 2; i++) { /* on the side that the line does not go to */
        const study_step *end = &s->step[ends[i]];
        fprintf(out, "set label '%.2g %%' at first %g,%g center offset 0,%g textcolor rgb '" ADVISOR "'\n",
                100 * end->regret, end->seconds, 100 * end->regret,
                end->regret > s->step[beside[i]].regret ? 0.9 : -0.9);
    }
    fputs("plot $learned using 1:2 with linespoints pt 7 ps 0.7 lw 3 lc rgb '" ADVISOR "'\n", out);
}

static void learned_says(FILE *out, const study *s)
{
    if (s->steps == 0) {
        fputs("The measurements do not say when they were made.", out);
        return;
    }
    const study_step *last = &s->step[s->steps - 1];
    fprintf(out,
            "After %.3g s of measuring, %d problems of this kind among them, the mean regret on %d problems that "
            "were withheld is %.2g %%; after %.3g s it was %.2g %%.",
            last->seconds, last->problems, s->judged, 100 * last->regret, s->step[0].seconds,
            100 * s->step[0].regret);
}

const study_plot study_plots[STUDY_PLOTS] = {
    {"map", "Which path is faster, and where",
     "Each cell is a layer of pattern (a,b,b,d), 4096 wide where it can be; blue where the fused kernels are "
     "predicted faster, "
     "orange where bmm is, pale where it hardly matters. Dots are measured problems of about that batch, coloured by "
     "who won.",
     520, 560, map_data, map_script, map_says},
    {"regret", "What the choice loses",
     "How many problems lose at least so much against the best kernel measured: the lower a line, the better the "
     "policy. The "
     "advisor is judged on patterns it had not seen; the ratio rule has the threshold that suits these very problems "
     "best.",
     520, 400, regret_data, regret_script, regret_says},
    {"times", "Predicted against measured",
     "Each dot is a kernel on a problem whose pattern was withheld from the fit: dots should lie on the line, along "
     "all of it.",
     520, 460, times_data, times_script, times_says},
    {"honesty", "Whether it knows what it knows",
     "Of the problems where fused is said to be faster with a probability of 80 %, it should be in 80 %: points "
     "should lie on "
     "the line within their 90 % bars.",
     520, 400, honesty_data, honesty_script, honesty_says},
    {"roofline", "How close to the machine's limits",
     "Measured time of the kernel that is taken over the least that memory and arithmetic need. Left of the dashed "
     "line memory "
     "decides, right of it arithmetic; small problems lie high because starting costs more than working.",
     520, 400, roofline_data, roofline_script, roofline_says},
    {"learned", "What calibrating taught, second by second",
     "The calibration played back: regret on withheld patterns of a fit to what had been measured by then. The "
     "seconds count from the first measurement of this kind, other types and layouts in between included. Where the "
     "line is "
     "flat, more of the same is worth little.",
     520, 400, learned_data, learned_script, learned_says},
};
