/* CSV in and out: the store's own table, the paper's table, and panels of problems.
 *
 * Own format: a,b,c,d,batch,dtype,layout,device,kernel,family,time_s,energy_j,samples,status (header required, columns
 * found by name in any order, further columns ignored; status is ks_status_name's word, "KS_OK" or empty for good). Those
 * up to time_s must be there. Behind them are written, and read where present: math,kernel_version,spread,reason,
 * measured_at_s. A cell without a value is empty; a row with status KS_OK has time_s or energy_j.
 * The paper's (ksmm): pattern,batch-size,algo,bs_position,precision,device_name,median,nruns; pattern is "[[a, b, c, d]]",
 * quoted; `kernel` is fused, `monarch` and `bmm` are bmm, other algos are kept with family KS_REFERENCE and never chosen;
 * median is seconds, or millijoules for nruns products when read as energy (then energy_j = median / 1000 / nruns).
 * Panel: a,b,c,d,batch,dtype,layout. Decisions: the same, device,kernel. Both may have math.
 *
 * Every reader reports the first bad line as "FILE:LINE: what is wrong with which value" with KS_ERR_PARSE and reads
 * the whole file before anything is stored: all or nothing. Numbers use '.' whatever the locale. */
#ifndef KS_CSV_H
#define KS_CSV_H

#include "store.h"
#include <stdio.h>

typedef enum ks_csv_format { KS_CSV_KSAUTO = 0, KS_CSV_KSMM } ks_csv_format;

ks_status ks_csv_format_parse(const char *text, ks_csv_format *format);

typedef struct ks_table {
    ks_measurement *rows;
    size_t count;
} ks_table;

/* Reads a stream, named `name` in messages. energy says how to read the ksmm median. Names of kernels in ksmm tables
 * are "ksmm.kernel", "ksmm.monarch", "ksmm.bmm", ... (ignored for the own format). On failure *table is empty. */
ks_status ks_csv_read(FILE *in, const char *name, ks_csv_format format, bool energy, ks_table *table);
ks_status ks_csv_read_file(const char *path, ks_csv_format format, bool energy, ks_table *table);
ks_status ks_csv_read_text(const char *text, size_t bytes, const char *name, ks_csv_format format, bool energy,
                           ks_table *table);
void ks_table_free(ks_table *table);

/* Writes the own format: the header, then one row a measurement. */
ks_status ks_csv_write_header(FILE *out);
ks_status ks_csv_write_row(FILE *out, const ks_measurement *m);

typedef struct ks_panel {
    ks_problem *problems;
    size_t count;
} ks_panel;

ks_status ks_panel_read_file(const char *path, ks_panel *panel);
ks_status ks_panel_read_text(const char *text, size_t bytes, const char *name, ks_panel *panel);
void ks_panel_free(ks_panel *panel);

/* A row of a table of decisions: on this device the problem is this kernel's. */
typedef struct ks_decision {
    ks_problem problem;
    char device[KS_DEVICE_BYTES], kernel[KS_NAME_BYTES];
    int64_t line;
} ks_decision;

/* Visits the rows as they are read, so that a failure may come after some; a visitor's failure is the reader's. Only a
 * regular file is read: nobody is waited for. */
typedef ks_status ks_decision_visit(void *user, const ks_decision *decision);
ks_status ks_decisions_read_file(const char *path, ks_decision_visit *visit, void *user);
ks_status ks_decisions_read_text(const char *text, size_t bytes, const char *name, ks_decision_visit *visit,
                                 void *user);
ks_status ks_decisions_write_header(FILE *out);
ks_status ks_decisions_write_row(FILE *out, const ks_problem *problem, const char *device, const char *kernel);

/* Adds every row of a table to the store in one transaction; rows already there are not doubled. */
ks_status ks_store_import(ks_store *store, const ks_table *table, int64_t *added);

#endif
