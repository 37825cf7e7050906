/* The line that tells how far a calibration is.
 *
 * Regret is what it is about, so the line shows it as it falls: the first that was known, and the present one. */
#include "watch.h"

#include <math.h>
#include <string.h>

watch watch_new(void)
{
    return (watch){.drawn_at_s = -1, .first_regret = NAN, .last_regret = NAN};
}

/* "[#####.....]" */
static const char *bar(char text[16], double elapsed_s, double left_s)
{
    const double share = elapsed_s / fmax(elapsed_s + fmax(left_s, 0), 1e-9);
    text[0] = '[', text[11] = ']', text[12] = '\0';
    for (int i = 0; i < 10; i++) text[1 + i] = i < (int)(10 * share) ? '#' : '.';
    return text;
}

static const char *phase_in_words(const char *phase)
{
    static const char *const words[][2] = {
        {"rates", "copy and GEMM rates"}, {"fit", "fitting"}, {"accept", "judging"}};
    for (size_t i = 0; phase && i < sizeof words / sizeof *words; i++)
        if (strcmp(phase, words[i][0]) == 0) return words[i][1];
    return NULL;
}

/* Regret is the expected one, as the plan above the line says; a log has no plan, and room for the word. */
static void show_line(const watch *w, const ks_progress *now, char *text, size_t size)
{
    char drawn[16] = "";
    const char *phase = phase_in_words(now->phase);
    int length = snprintf(text, size, "%s%smeasured %d%s%s | %.0f s left",
                          w->terminal ? bar(drawn, now->elapsed_s, now->left_s) : "", w->terminal ? " " : "",
                          now->measured, phase ? ", " : "", phase ? phase : "", fmax(now->left_s, 0));
    length += snprintf(text + length, size - (size_t)length, " | %sregret %s", w->terminal ? "" : "expected ",
                       isnan(w->last_regret) ? "not known yet" : cli_percent(w->first_regret).s);
    if (!isnan(w->last_regret) && w->first_regret != w->last_regret)
        snprintf(text + length, size - (size_t)length, " -> %s", cli_percent(w->last_regret).s);
}

void watch_progress(watch *w, const ks_progress *now)
{
    double interval_s = w->terminal ? 0.1 : 1;
    w->measured = now->measured;
    if (isnan(w->first_regret)) w->first_regret = now->expected_regret;
    if (!isnan(now->expected_regret)) w->last_regret = now->expected_regret;
    if (w->drawn_at_s < 0 || now->elapsed_s - w->drawn_at_s >= interval_s) {
        char text[192];
        ks_device_state state;
        show_line(w, now, text, sizeof text);
        /* A line longer than the terminal is wide could not be drawn over. Blanks wipe what the last one was longer by: even a
         * terminal that knows no escape codes can do that. */
        const int room = cli_columns() - 1;
        if (w->terminal)
            w->width = fprintf(stderr, "\r%-*.*s", w->width < room ? w->width : room, room, text) - 1;
        else if (w->lines)
            fprintf(stderr, "%s\n", text);
        fflush(stderr);
        w->drawn_at_s = now->elapsed_s;
        if (w->device) ks_device_state_read(w->device, &state);
        if (w->device && *state.throttle) snprintf(w->throttle, sizeof w->throttle, "%s", state.throttle);
    }
}

void watch_wipe_line(watch *w)
{
    if (w->terminal && w->drawn_at_s >= 0) fprintf(stderr, "\r%*s\r", w->width, "");
}
