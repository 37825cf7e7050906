/* libFuzzer on everything that reads CSV: no input may crash, leak, or be taken with sizes that no problem can have.
 *
 *     clang -fsanitize=fuzzer,address,undefined ... tests/fuzz_csv.c db/csv.c db/records.c ...
 *     ./fuzz_csv -max_total_time=60 CORPUS */
#include "csv.h"

#include <math.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

static ks_status see(void *user, const ks_decision *d)
{
    int64_t *line = user;
    if (ks_problem_check(&d->problem) != KS_OK || !*d->device || !*d->kernel || d->line <= *line) abort();
    *line = d->line;
    return KS_OK;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    const char *text = (const char *)data;
    for (int i = 0; i < 4; i++) {
        ks_table table;
        ks_status status = ks_csv_read_text(text, bytes, "fuzz", (ks_csv_format)(i / 2), i % 2 != 0, &table);
        if (status == KS_OK) {
            for (size_t row = 0; row < table.count; row++) {
                const ks_measurement *m = &table.rows[row];
                if (ks_problem_check(&m->problem) != KS_OK) abort();
                if (m->status == KS_OK && isnan(m->time_s) && isnan(m->energy_j)) abort();
            }
        } else if (table.rows || table.count) {
            abort();
        }
        ks_table_free(&table);
    }
    ks_panel panel;
    if (ks_panel_read_text(text, bytes, "fuzz", &panel) == KS_OK)
        for (size_t i = 0; i < panel.count; i++)
            if (ks_problem_check(&panel.problems[i]) != KS_OK) abort();
    ks_panel_free(&panel);
    int64_t line = 0;
    ks_decisions_read_text(text, bytes, "fuzz", see, &line);
    return 0;
}
