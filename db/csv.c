/* What the columns mean: the store's own table, the paper's (ksmm), panels, and decisions.
 *
 * The own format has 14 columns by the design. Five more are written behind them (math, kernel_version, spread,
 * reason, measured_at_s) and read where present, because without them a round trip would turn TF32 timings into
 * float32 ones, mix versions of a kernel, and double every row that is imported into the store it came from. */
#include "csv.h"
#include "error.h"
#include "records.h"
#include "tables.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* The own format's columns; those up to TIME_S are required of every table, up to LAYOUT of every panel, up to KERNEL of
 * decisions. */
enum { A, B, C, D, BATCH, DTYPE, LAYOUT, DEVICE, KERNEL, FAMILY, TIME_S, ENERGY_J, SAMPLES, STATUS };
enum { MATH = STATUS + 1, VERSION, SPREAD, REASON, MEASURED_AT_S, COLUMNS };

static const char *const columns[COLUMNS] = {"a",
                                             "b",
                                             "c",
                                             "d",
                                             "batch",
                                             "dtype",
                                             "layout",
                                             "device",
                                             "kernel",
                                             "family",
                                             "time_s",
                                             "energy_j",
                                             "samples",
                                             "status",
                                             "math",
                                             "kernel_version",
                                             "spread",
                                             "reason",
                                             "measured_at_s"};

enum { PATTERN, KSMM_BATCH, ALGO, POSITION, PRECISION, KSMM_DEVICE, MEDIAN, NRUNS, KSMM_COLUMNS };

static const char *const ksmm_columns[KSMM_COLUMNS] = {"pattern",   "batch-size",  "algo",   "bs_position",
                                                       "precision", "device_name", "median", "nruns"};

ks_status ks_csv_format_parse(const char *text, ks_csv_format *format)
{
    if (text && strcmp(text, "ksauto") == 0)
        *format = KS_CSV_KSAUTO;
    else if (text && strcmp(text, "ksmm") == 0)
        *format = KS_CSV_KSMM;
    else
        return ks_fail(KS_ERR_PARSE, "format \"%.80s\" is unknown; valid: ksauto, ksmm", text ? text : "(null)");
    return KS_OK;
}

/* --- reading ----------------------------------------------------------------------------------------------- */

/* The records being read, and where the columns are among a row's fields. */
typedef struct reading {
    ks_records records;
    const char *const *names;
    int at[COLUMNS];
} reading;

/* The cell of a column in the current row; "" if there is no such column. */
static const char *cell(const reading *in, int column)
{
    return in->at[column] < 0 ? "" : in->records.fields[in->at[column]];
}

static ks_status fail_cell(const reading *in, int column, const char *what)
{
    return ks_records_fail(&in->records, in->names[column], cell(in, column), what);
}

static ks_status get_size(const reading *in, int column, int64_t *out)
{
    return ks_text_to_int(cell(in, column), out) && *out >= 1
               ? KS_OK
               : fail_cell(in, column, "is not a whole number from 1 to 9223372036854775807");
}

/* An empty cell is 0. */
static ks_status get_count(const reading *in, int column, int64_t limit, int64_t *out)
{
    char text[64];
    *out = 0;
    if (!*cell(in, column) || (ks_text_to_int(cell(in, column), out) && *out >= 0 && *out <= limit)) return KS_OK;
    snprintf(text, sizeof text, "is not a whole number from 0 to %lld", (long long)limit);
    return fail_cell(in, column, text);
}

/* An empty cell is NaN. */
static ks_status get_amount(const reading *in, int column, bool positive, double *out)
{
    *out = NAN;
    if (!*cell(in, column)) return KS_OK;
    if (!ks_text_to_real(cell(in, column), out) || *out < 0 || (positive && *out == 0))
        return fail_cell(in, column, positive ? "is not a finite number > 0" : "is not a finite number >= 0");
    return KS_OK;
}

static ks_status get_text(const reading *in, int column, char *out, size_t size)
{
    size_t length = strlen(cell(in, column));
    if (length >= size) return fail_cell(in, column, "is too long");
    memcpy(out, cell(in, column), length + 1);
    return KS_OK;
}

/* The rules that tie columns together: sizes that overflow, names that are empty, a good row without a result. */
static ks_status check_row(const reading *in, const ks_measurement *m)
{
    char text[192];
    const char *fault = ks_measurement_fault(m, text, sizeof text);
    if (!fault) return KS_OK;
    return ks_fail(KS_ERR_PARSE, "%s:%lld: %s", in->records.name, (long long)in->records.line, fault);
}

static ks_status read_problem(const reading *in, ks_problem *p)
{
    int64_t *const sizes[] = {&p->a, &p->b, &p->c, &p->d, &p->batch};
    ks_status status;
    *p = (ks_problem){0};
    for (int i = 0; i < 5; i++)
        if ((status = get_size(in, A + i, sizes[i])) != KS_OK) return status;
    if (ks_type_parse(cell(in, DTYPE), &p->type) != KS_OK)
        return fail_cell(in, DTYPE, "is unknown; valid: f32, f16, bf16, f64");
    if (ks_layout_parse(cell(in, LAYOUT), &p->layout) != KS_OK)
        return fail_cell(in, LAYOUT, "is unknown; valid: first, last");
    if (*cell(in, MATH) && ks_math_parse(cell(in, MATH), &p->math) != KS_OK)
        return fail_cell(in, MATH, "is unknown; valid: f32, tf32");
    if ((status = ks_problem_check(p)) != KS_OK) {
        char text[192]; /* a copy: ks_fail writes where the message lies */
        snprintf(text, sizeof text, "%s", ks_status_message(status));
        return ks_fail(KS_ERR_PARSE, "%s:%lld: %s", in->records.name, (long long)in->records.line, text);
    }
    return KS_OK;
}

static ks_status read_own_row(const reading *in, bool energy, ks_measurement *m)
{
    ks_status status;
    int64_t version, samples;
    (void)energy; /* the own format has a column for each */
    if ((status = read_problem(in, &m->problem)) != KS_OK) return status;
    if ((status = get_text(in, DEVICE, m->device, sizeof m->device)) != KS_OK) return status;
    if ((status = get_text(in, KERNEL, m->kernel, sizeof m->kernel)) != KS_OK) return status;
    if (!ks_family_from_name(cell(in, FAMILY), &m->family))
        return fail_cell(in, FAMILY, "is unknown; valid: fused, bmm, reference");
    m->status = KS_OK;
    if (*cell(in, STATUS) && !ks_status_from_name(cell(in, STATUS), &m->status))
        return fail_cell(in, STATUS, "is no status such as KS_OK or KS_ERR_WRONG_RESULT");
    if ((status = get_amount(in, TIME_S, true, &m->time_s)) != KS_OK) return status;
    if ((status = get_amount(in, ENERGY_J, false, &m->energy_j)) != KS_OK) return status;
    if ((status = get_amount(in, SPREAD, false, &m->spread)) != KS_OK) return status;
    if ((status = get_amount(in, MEASURED_AT_S, false, &m->measured_at_s)) != KS_OK) return status;
    if ((status = get_count(in, SAMPLES, INT_MAX, &samples)) != KS_OK) return status;
    if ((status = get_count(in, VERSION, UINT_MAX, &version)) != KS_OK) return status;
    if ((status = get_text(in, REASON, m->reason, sizeof m->reason)) != KS_OK) return status;
    m->samples = (int)samples;
    m->kernel_version = (unsigned)version;
    if (isnan(m->measured_at_s)) m->measured_at_s = 0;
    if (m->status != KS_OK) m->time_s = NAN; /* a failure has no time, whatever it took */
    if (m->status == KS_OK && isnan(m->time_s) && isnan(m->energy_j))
        return fail_cell(in, TIME_S, "is empty, and so is energy_j, where the status is KS_OK");
    return check_row(in, m);
}

static const char *skip_blanks(const char *at)
{
    return at + strspn(at, " ");
}

/* Takes "[a, b, c, d]" and the blanks around it. */
static bool take_factor(const char **at, int64_t sizes[4])
{
    const char *from = skip_blanks(*at);
    if (*from != '[') return false;
    for (int i = 0; i < 4; i++) {
        char digits[24];
        from = skip_blanks(from + 1);
        size_t length = strspn(from, "0123456789");
        if (length >= sizeof digits) return false;
        memcpy(digits, from, length);
        digits[length] = '\0';
        if (!ks_text_to_int(digits, &sizes[i]) || sizes[i] < 1) return false;
        from = skip_blanks(from + length);
        if (*from != (i < 3 ? ',' : ']')) return false;
    }
    *at = skip_blanks(from + 1);
    return true;
}

/* "[[a, b, c, d]]". More factors are a chain, which is well-formed and yet nothing that one measurement can be of. */
static ks_status read_pattern(const reading *in, ks_problem *p)
{
    int64_t sizes[4] = {0}, further[4];
    int factors = 0;
    char text[64];
    const char *at = skip_blanks(cell(in, PATTERN));
    bool good = *at == '[';
    while (good) {
        at++; /* past the opening bracket, or the comma */
        good = take_factor(&at, factors++ == 0 ? sizes : further);
        if (*at != ',') break;
    }
    if (!good || *at != ']' || *skip_blanks(at + 1))
        return fail_cell(in, PATTERN, "is not \"[[a, b, c, d]]\" with whole numbers >= 1");
    if (factors > 1) {
        snprintf(text, sizeof text, "has %d factors, one is supported", factors);
        return fail_cell(in, PATTERN, text);
    }
    p->a = sizes[0], p->b = sizes[1], p->c = sizes[2], p->d = sizes[3];
    return KS_OK;
}

static ks_status read_ksmm_row(const reading *in, bool energy, ks_measurement *m)
{
    static const char *const precisions[KS_NTYPES] = {"fp32", "fp16", "bf16", "fp64"};
    static const char *const positions[KS_NLAYOUTS] = {"bs_first", "bs_last"};
    ks_problem *p = &m->problem;
    double median, runs;
    ks_status status;
    int i;
    if ((status = read_pattern(in, p)) != KS_OK) return status;
    if ((status = get_size(in, KSMM_BATCH, &p->batch)) != KS_OK) return status;
    for (i = 0; i < KS_NTYPES && strcmp(cell(in, PRECISION), precisions[i]) != 0; i++) continue;
    if (i == KS_NTYPES) return fail_cell(in, PRECISION, "is unknown; valid: fp32, fp16, bf16, fp64");
    p->type = (ks_type)i;
    for (i = 0; i < KS_NLAYOUTS && strcmp(cell(in, POSITION), positions[i]) != 0; i++) continue;
    if (i == KS_NLAYOUTS) return fail_cell(in, POSITION, "is unknown; valid: bs_first, bs_last");
    p->layout = (ks_layout)i;
    if ((status = get_text(in, KSMM_DEVICE, m->device, sizeof m->device)) != KS_OK) return status;

    const char *algo = cell(in, ALGO);
    if (!*algo || strlen(algo) > sizeof m->kernel - sizeof "ksmm.")
        return fail_cell(in, ALGO, "is not a name of 1 to 58 bytes");
    strcpy(m->kernel, "ksmm.");
    strcat(m->kernel, algo);
    m->family = strcmp(algo, "kernel") == 0                                ? KS_FUSED
                : strcmp(algo, "monarch") == 0 || strcmp(algo, "bmm") == 0 ? KS_BMM
                                                                           : KS_REFERENCE;

    if ((status = get_amount(in, MEDIAN, !energy, &median)) != KS_OK) return status;
    if (isnan(median)) return fail_cell(in, MEDIAN, "is empty");
    if (!ks_text_to_real(cell(in, NRUNS), &runs) || runs < 1 || runs > INT_MAX || runs != floor(runs))
        return fail_cell(in, NRUNS, "is not a whole number from 1 to 2147483647"); /* written as "64.0" */
    m->time_s = energy ? NAN : median;
    m->energy_j = energy ? median / 1000 / runs : NAN;
    m->spread = NAN;
    m->samples = (int)runs;
    return check_row(in, m);
}

static ks_status grow(void **rows, size_t *room, size_t count, size_t size)
{
    if (count < *room) return KS_OK;
    size_t wanted = *room ? *room * 2 : 64;
    void *more = wanted <= SIZE_MAX / size ? realloc(*rows, wanted * size) : NULL;
    if (!more) return ks_fail(KS_ERR_MEMORY, "no memory for a table of %zu rows", wanted);
    *rows = more;
    *room = wanted;
    return KS_OK;
}

/* Reads the rows of records that were just opened with the given status. */
static ks_status read_table(reading *in, ks_status status, ks_csv_format format, bool energy, ks_table *table)
{
    size_t room = 0;
    bool got = true, own = format == KS_CSV_KSAUTO;
    ks_status (*read_row)(const reading *, bool, ks_measurement *) = own ? read_own_row : read_ksmm_row;
    *table = (ks_table){0};
    in->names = own ? columns : ksmm_columns;
    if (status == KS_OK)
        status = own ? ks_records_columns(&in->records, columns, COLUMNS, TIME_S + 1, in->at)
                     : ks_records_columns(&in->records, ksmm_columns, KSMM_COLUMNS, KSMM_COLUMNS, in->at);
    while (status == KS_OK && (status = ks_records_next(&in->records, &got)) == KS_OK && got) {
        if ((status = grow((void **)&table->rows, &room, table->count, sizeof *table->rows)) != KS_OK) break;
        table->rows[table->count] = (ks_measurement){0};
        if ((status = read_row(in, energy, &table->rows[table->count])) == KS_OK) table->count++;
    }
    ks_records_close(&in->records);
    if (status != KS_OK) ks_table_free(table);
    return status;
}

static ks_status open_file(const char *path, FILE **in)
{
    *in = fopen(path, "rbe");
    return *in ? KS_OK : ks_fail(KS_ERR_IO, "%s: cannot be opened: %s", path, strerror(errno));
}

ks_status ks_csv_read(FILE *in, const char *name, ks_csv_format format, bool energy, ks_table *table)
{
    reading r;
    return read_table(&r, ks_records_open(&r.records, in, name), format, energy, table);
}

ks_status ks_csv_read_text(const char *text, size_t bytes, const char *name, ks_csv_format format, bool energy,
                           ks_table *table)
{
    reading r;
    return read_table(&r, ks_records_open_text(&r.records, text, bytes, name), format, energy, table);
}

ks_status ks_csv_read_file(const char *path, ks_csv_format format, bool energy, ks_table *table)
{
    FILE *in;
    *table = (ks_table){0};
    ks_status status = open_file(path, &in);
    if (status != KS_OK) return status;
    status = ks_csv_read(in, path, format, energy, table);
    fclose(in);
    return status;
}

void ks_table_free(ks_table *table)
{
    free(table->rows);
    *table = (ks_table){0};
}

/* --- panels ------------------------------------------------------------------------------------------------ */

static ks_status read_panel(reading *in, ks_status status, ks_panel *panel)
{
    size_t room = 0;
    bool got = true;
    *panel = (ks_panel){0};
    in->names = columns;
    /* math is looked for too: a panel may ask for TF32 */
    if (status == KS_OK) status = ks_records_columns(&in->records, columns, COLUMNS, LAYOUT + 1, in->at);
    while (status == KS_OK && (status = ks_records_next(&in->records, &got)) == KS_OK && got) {
        if ((status = grow((void **)&panel->problems, &room, panel->count, sizeof *panel->problems)) != KS_OK) break;
        if ((status = read_problem(in, &panel->problems[panel->count])) == KS_OK) panel->count++;
    }
    ks_records_close(&in->records);
    if (status != KS_OK) ks_panel_free(panel);
    return status;
}

ks_status ks_panel_read_text(const char *text, size_t bytes, const char *name, ks_panel *panel)
{
    reading r;
    return read_panel(&r, ks_records_open_text(&r.records, text, bytes, name), panel);
}

ks_status ks_panel_read_file(const char *path, ks_panel *panel)
{
    reading r;
    FILE *in;
    *panel = (ks_panel){0};
    ks_status status = open_file(path, &in);
    if (status != KS_OK) return status;
    status = read_panel(&r, ks_records_open(&r.records, in, path), panel);
    fclose(in);
    return status;
}

void ks_panel_free(ks_panel *panel)
{
    free(panel->problems);
    *panel = (ks_panel){0};
}

/* --- decisions --------------------------------------------------------------------------------------------- */

static ks_status read_decisions(reading *in, ks_status status, ks_decision_visit *visit, void *user)
{
    bool got = true;
    in->names = columns;
    if (status == KS_OK) status = ks_records_columns(&in->records, columns, COLUMNS, KERNEL + 1, in->at);
    while (status == KS_OK && (status = ks_records_next(&in->records, &got)) == KS_OK && got) {
        ks_decision d = {.line = in->records.line};
        if ((status = read_problem(in, &d.problem)) != KS_OK) break;
        if ((status = get_text(in, DEVICE, d.device, sizeof d.device)) != KS_OK) break;
        if ((status = get_text(in, KERNEL, d.kernel, sizeof d.kernel)) != KS_OK) break;
        if (!*d.device || !*d.kernel)
            status = fail_cell(in, *d.device ? KERNEL : DEVICE, "is no name");
        else
            status = visit(user, &d);
    }
    ks_records_close(&in->records);
    return status;
}

ks_status ks_decisions_read_text(const char *text, size_t bytes, const char *name, ks_decision_visit *visit,
                                 void *user)
{
    reading r;
    return read_decisions(&r, ks_records_open_text(&r.records, text, bytes, name), visit, user);
}

ks_status ks_decisions_read_file(const char *path, ks_decision_visit *visit, void *user)
{
    reading r;
    struct stat facts;
    const int file = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* a FIFO nobody writes to would be waited for */
    if (file < 0) return ks_fail(KS_ERR_IO, "%s: cannot be opened: %s", path, strerror(errno));
    const bool regular = fstat(file, &facts) == 0 && S_ISREG(facts.st_mode);
    FILE *in = regular ? fdopen(file, "rb") : NULL;
    if (!in) {
        close(file);
        return ks_fail(KS_ERR_IO, "%s: %s", path, regular ? "cannot be read" : "is no regular file");
    }
    const ks_status status = read_decisions(&r, ks_records_open(&r.records, in, path), visit, user);
    fclose(in);
    return status;
}

/* --- writing ----------------------------------------------------------------------------------------------- */

static ks_status written(FILE *out)
{
    return ferror(out) ? ks_fail(KS_ERR_IO, "a table cannot be written: %s", strerror(errno)) : KS_OK;
}

ks_status ks_csv_write_header(FILE *out)
{
    for (int i = 0; i < COLUMNS; i++) fprintf(out, "%s%s", i ? "," : "", columns[i]);
    fputc('\n', out);
    return written(out);
}

/* ",text", quoted where the reader would see something else. */
static void write_text(FILE *out, const char *text)
{
    size_t length = strlen(text);
    bool plain = !text[strcspn(text, ",\"\r\n")] &&
                 (length == 0 || (!strchr(" \t", text[0]) && !strchr(" \t", text[length - 1])));
    fputc(',', out);
    if (plain) {
        fputs(text, out);
        return;
    }
    fputc('"', out);
    for (; *text; text++) {
        if (*text == '"') fputc('"', out);
        fputc(*text, out);
    }
    fputc('"', out);
}

static void write_real(FILE *out, double value)
{
    char text[32];
    fprintf(out, ",%s", ks_real_to_text(value, text));
}

ks_status ks_decisions_write_header(FILE *out)
{
    for (int i = A; i <= KERNEL; i++) fprintf(out, "%s,", columns[i]);
    fprintf(out, "%s\n", columns[MATH]);
    return written(out);
}

static void write_problem(FILE *out, const ks_problem *p)
{
    fprintf(out, "%lld,%lld,%lld,%lld,%lld,%s,%s", (long long)p->a, (long long)p->b, (long long)p->c, (long long)p->d,
            (long long)p->batch, ks_type_name(p->type), ks_layout_name(p->layout));
}

ks_status ks_decisions_write_row(FILE *out, const ks_problem *p, const char *device, const char *kernel)
{
    write_problem(out, p);
    write_text(out, device);
    write_text(out, kernel);
    write_text(out, ks_math_name(p->math));
    fputc('\n', out);
    return written(out);
}

ks_status ks_csv_write_row(FILE *out, const ks_measurement *m)
{
    const ks_problem *p = &m->problem;
    char text[192];
    const char *fault = ks_measurement_fault(m, text, sizeof text);
    if (fault) return ks_fail(KS_ERR_ARGUMENT, "a measurement to be written: %s", fault);
    write_problem(out, p);
    write_text(out, m->device);
    write_text(out, m->kernel);
    write_text(out, ks_family_name(m->family));
    write_real(out, m->time_s);
    write_real(out, m->energy_j);
    fprintf(out, ",%d", m->samples);
    write_text(out, ks_status_name(m->status));
    write_text(out, ks_math_name(p->math));
    fprintf(out, ",%u", m->kernel_version);
    write_real(out, m->spread);
    write_text(out, m->reason);
    write_real(out, m->measured_at_s);
    fputc('\n', out);
    return written(out);
}
