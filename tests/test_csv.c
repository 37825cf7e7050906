/* CSV: what is read is what stands there; what does not belong there is refused with file, line and value; and a table
 * survives the store and the way back. */
#include "csv.h"
#include "records.h"
#include "stores.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <locale.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define OWN   "a,b,c,d,batch,dtype,layout,device,kernel,family,time_s,energy_j,samples,status\n"
#define KSMM  "pattern,batch-size,algo,bs_position,precision,device_name,median,nruns\n"
#define PANEL "a,b,c,d,batch,dtype,layout\n"

static ks_table read_text(const char *text, ks_csv_format format, bool energy)
{
    ks_table table;
    ks_status status = ks_csv_read_text(text, strlen(text), "t.csv", format, energy, &table);
    if (status != KS_OK) fail_msg("%s", ks_status_message(status));
    return table;
}

static void refuse_bytes(const char *text, size_t bytes, ks_csv_format format, bool energy, const char *place,
                         const char *value)
{
    ks_table table = {(ks_measurement *)1, 77};
    assert_failure(ks_csv_read_text(text, bytes, "t.csv", format, energy, &table), KS_ERR_PARSE, place, value);
    assert_null(table.rows);
    assert_int_equal(table.count, 0);
}

static void refuse(const char *text, ks_csv_format format, const char *place, const char *value)
{
    refuse_bytes(text, strlen(text), format, false, place, value);
}

/* --- the own format ---------------------------------------------------------------------------------------- */

static void test_own(void **state)
{
    (void)state;
    ks_table t = read_text(OWN "6,64,48,1,128,f32,first,CPU,fused.cpu,fused,1.5e-3,,7,KS_OK\n"
                               "1,2,3,4,5,bf16,last,\"A, \"\"B\"\"\",bmm.cpu.permute,bmm,,2.5,0,\n"
                               "\n"
                               "1,2,3,4,5,f64,last,D,ref.cpu,reference,,,,KS_ERR_WRONG_RESULT\n"
                               "1,2,3,4,5,f16,last,D,k,reference,3,,,KS_ERR_DEVICE",
                           KS_CSV_KSAUTO, false);
    assert_int_equal(t.count, 4);
    ks_measurement *m = t.rows;
    assert_int_equal(m[0].problem.a, 6);
    assert_int_equal(m[0].problem.b, 64);
    assert_int_equal(m[0].problem.c, 48);
    assert_int_equal(m[0].problem.d, 1);
    assert_int_equal(m[0].problem.batch, 128);
    assert_int_equal(m[0].problem.type, KS_F32);
    assert_int_equal(m[0].problem.layout, KS_BATCH_FIRST);
    assert_int_equal(m[0].family, KS_FUSED);
    assert_true(m[0].time_s == 1.5e-3);
    assert_true(isnan(m[0].energy_j) && isnan(m[0].spread));
    assert_int_equal(m[0].samples, 7);
    assert_string_equal(m[1].device, "A, \"B\"");
    assert_int_equal(m[1].problem.type, KS_BF16);
    assert_int_equal(m[1].status, KS_OK);
    assert_true(isnan(m[1].time_s) && m[1].energy_j == 2.5);
    assert_int_equal(m[2].family, KS_REFERENCE);
    assert_int_equal(m[2].status, KS_ERR_WRONG_RESULT);
    assert_true(isnan(m[2].time_s));
    assert_int_equal(m[3].status, KS_ERR_DEVICE);
    assert_true(isnan(m[3].time_s)); /* a failure has no time */
    ks_table_free(&t);
    assert_null(t.rows);
}

/* Byte order mark, CRLF, columns in another order with strangers among them, blanks, newlines in quotes. */
static void test_shapes(void **state)
{
    (void)state;
    ks_table t = read_text("\xEF\xBB\xBF"
                           "note,family,kernel,device,layout,dtype,batch,d,c,b,a,time_s,math,note\r\n"
                           "\"x\r\ny\",fused,k,D ,last,f32, 7 ,1,2,3,\t4,1,tf32,\r\n"
                           "\r\n"
                           ",bmm,k2,\" D\",last,f32,7,1,2,3,\"5\",0.25,,\"\"",
                           KS_CSV_KSAUTO, false);
    assert_int_equal(t.count, 2);
    assert_int_equal(t.rows[0].problem.a, 4);
    assert_int_equal(t.rows[0].problem.batch, 7);
    assert_int_equal(t.rows[0].problem.math, KS_MATH_TF32);
    assert_string_equal(t.rows[0].device, "D");
    assert_string_equal(t.rows[1].device, " D");
    assert_int_equal(t.rows[1].problem.a, 5);
    assert_int_equal(t.rows[1].problem.math, KS_MATH_F32);
    ks_table_free(&t);
    t = read_text(OWN, KS_CSV_KSAUTO, false);
    assert_int_equal(t.count, 0);
    ks_table_free(&t);
    /* the line of an error counts the newlines in quotes, and the blank lines */
    refuse("a,b,c,d,batch,dtype,layout,device,kernel,family,time_s,n\n"
           "1,1,1,1,1,f32,first,D,k,fused,1,\"\n\n\"\n\n"
           "1,1,1,1,x1,f32,first,D,k,fused,1,\n",
           KS_CSV_KSAUTO, "t.csv:6: ", "batch \"x1\"");
}

static void test_own_refuses(void **state)
{
    /* one column at a time takes a value that it may not have */
    static const char *const good[] = {"6",   "64", "48",    "1",   "128", "f32", "first",
                                       "CPU", "k",  "fused", "0.5", "0.5", "7",   "KS_OK"};
    static const char *const names[] = {"a",      "b",      "c",      "d",      "batch",    "dtype",   "layout",
                                        "device", "kernel", "family", "time_s", "energy_j", "samples", "status"};
    static const struct {
        int column;
        const char *value;
    } cases[] = {
        {0, "0"},      {0, "-1"},
        {1, "1.5"},    {2, "1e3"},
        {3, "0x10"},   {4, "9223372036854775808"},
        {0, "nan"},    {0, ""},
        {3, "1 2"},    {4, "99999999999999999999999999999999999999999999"},
        {0, "+5"},     {1, "\xD9\xA3"},
        {5, "fp32"},   {5, "F32"},
        {5, ""},       {6, "firstt"},
        {6, ""},       {9, "fuse"},
        {9, ""},       {10, "-1"},
        {10, "0"},     {10, "nan"},
        {10, "NaN"},   {10, "inf"},
        {10, "1e400"}, {10, "1e-400"},
        {10, "0x1p3"}, {10, "1.5s"},
        {10, "1..5"},  {10, "--5"},
        {10, "."},     {10, "e"},
        {10, "5e"},    {10, "1 5"},
        {11, "-0.5"},  {11, "1e999"},
        {11, "nan"},   {11, "infinity"},
        {12, "-1"},    {12, "2147483648"},
        {12, "7.0"},   {13, "OK"},
        {13, "0"},     {13, "KS_ERR_NOPE"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char text[1024], value[128];
        strcpy(text, OWN "6,64,48,1,128,f32,first,CPU,k,fused,0.5,0.5,7,KS_OK\n");
        for (int c = 0; c < 14; c++) {
            strcat(text, c ? "," : "");
            strcat(text, c == cases[i].column ? cases[i].value : good[c]);
        }
        snprintf(value, sizeof value, "%s \"%s\"", names[cases[i].column], cases[i].value);
        refuse(text, KS_CSV_KSAUTO, "t.csv:3: ", value);
    }
    refuse(OWN "6,64,48,1,128,f32,first,CPU,k,fused,,,7,KS_OK\n", KS_CSV_KSAUTO, "t.csv:2: ", "time_s");
    refuse(OWN "6,64,48,1,128,f32,first,,k,fused,1,,7,KS_OK\n", KS_CSV_KSAUTO, "t.csv:2: ", "device");
    refuse(OWN "6,64,48,1,128,f32,first,D,\"k\n\",fused,1,,7,KS_OK\n", KS_CSV_KSAUTO, "t.csv:2: ", "kernel");
    refuse(OWN "3000000000,3000000000,3000000000,1,128,f32,first,D,k,fused,1,,7,KS_OK\n", KS_CSV_KSAUTO,
           "t.csv:2: ", "3000000000");
    /* a time cell that is wrong is wrong whatever the status */
    refuse(OWN "6,64,48,1,128,f32,first,D,k,fused,nan,,7,KS_ERR_DEVICE\n", KS_CSV_KSAUTO, "t.csv:2: ", "\"nan\"");
}

static void test_broken_files(void **state)
{
    (void)state;
    refuse("", KS_CSV_KSAUTO, "t.csv:1: ", "no header");
    refuse("\n\n", KS_CSV_KSAUTO, "t.csv:1: ", "no header");
    refuse("\xEF\xBB\xBF", KS_CSV_KSAUTO, "t.csv:1: ", "no header");
    refuse("a,b,c\n1,2,3\n", KS_CSV_KSAUTO,
           "t.csv:1: ", "\"d\" is missing in the header, which must have a,b,c,d,batch,dtype,layout,");
    refuse("a,b,c,d,batch,dtype,layout,device,kernel,family,time_s,a\n", KS_CSV_KSAUTO,
           "t.csv:1: ", "\"a\" appears twice");
    refuse(OWN "1,2,3\n", KS_CSV_KSAUTO, "t.csv:2: ", "3 fields, the header has 14");
    refuse(OWN "1,1,1,1,1,f32,first,D,k,fused,1,,7,KS_OK,\n", KS_CSV_KSAUTO, "t.csv:2: ", "15 fields");
    refuse(OWN "1,1,1,1,1,f32,first,\"D", KS_CSV_KSAUTO, "t.csv:2: ", "never closed");
    refuse(OWN "1,1,1,1,1,f32,first,\"D\n\n\n", KS_CSV_KSAUTO, "t.csv:2: ", "never closed");
    refuse(OWN "1,1,1,1,1,f32,first,D\"E,k\n", KS_CSV_KSAUTO, "t.csv:2: ", "quote inside");
    refuse(OWN "1,1,1,1,1,f32,first,\"D\"E,k\n", KS_CSV_KSAUTO, "t.csv:2: ", "after a closing quote");
    refuse(OWN "1,1\r,1\n", KS_CSV_KSAUTO, "t.csv:2: ", "carriage return");
    refuse("\"", KS_CSV_KSAUTO, "t.csv:1: ", "never closed");
    static const char nul[] = OWN "1,1,1,1,1,f32,first,D\0E,k,fused,1,,7,KS_OK\n",
                      quoted_nul[] = OWN "1,1,1,1,1,f32,first,\"\n\0\",k,fused,1,,7,KS_OK\n";
    refuse_bytes(nul, sizeof nul - 1, KS_CSV_KSAUTO, false, "t.csv:2: ", "NUL");
    refuse_bytes(quoted_nul, sizeof quoted_nul - 1, KS_CSV_KSAUTO, false, "t.csv:3: ", "NUL");

    for (int quoted = 0; quoted < 2; quoted++) { /* huge fields: in a column that is read, and in one that is not */
        size_t huge = 1 << 20, length = 0;
        char *text = malloc(huge + 400);
        length += (size_t)sprintf(text, "%s1,1,1,1,1,f32,first,%s", OWN, quoted ? "\"" : "");
        memset(text + length, 'x', huge);
        length += huge;
        length += (size_t)sprintf(text + length, "%s,k,fused,1,,7,KS_OK\n", quoted ? "\"" : "");
        refuse_bytes(text, length, KS_CSV_KSAUTO, false, "t.csv:2: ", "65536");
        free(text);
    }
    char name[256] = "";
    memset(name, 'd', 200);
    char text[1024];
    snprintf(text, sizeof text, OWN "1,1,1,1,1,f32,first,%s,k,fused,1,,7,KS_OK\n", name);
    refuse(text, KS_CSV_KSAUTO, "t.csv:2: device \"ddd", "is too long");
    char many[256];
    memset(many, ',', 100), strcpy(many + 100, "\n");
    refuse(many, KS_CSV_KSAUTO, "t.csv:1: ", "64 fields");
}

static void test_files(void **state)
{
    const char *path = sandbox_path(state, "t.csv");
    ks_table table;
    ks_panel panel;
    static const char bad[] = OWN "1,1,1,1,1,f32,first,D,k,fused,zero,,7,KS_OK\n";
    file_write(path, bad, sizeof bad - 1);
    char place[600];
    snprintf(place, sizeof place, "%s:2: ", path);
    assert_failure(ks_csv_read_file(path, KS_CSV_KSAUTO, false, &table), KS_ERR_PARSE, place, "\"zero\"");
    assert_failure(ks_csv_read_file(sandbox_path(state, "no.csv"), KS_CSV_KSAUTO, false, &table), KS_ERR_IO, "no.csv",
                   "No such file");
    assert_failure(ks_panel_read_file(sandbox_path(state, "no.csv"), &panel), KS_ERR_IO, "no.csv", "No such file");
    assert_failure(ks_csv_read_file(*state, KS_CSV_KSAUTO, false, &table), KS_ERR_IO, *state, "directory");
    assert_null(table.rows);
    assert_failure(ks_csv_read_file("/dev/zero", KS_CSV_KSAUTO, false, &table), KS_ERR_PARSE, "/dev/zero:1: ", "NUL");
    ks_csv_format format;
    assert_int_equal(ks_csv_format_parse("ksmm", &format), KS_OK);
    assert_int_equal(format, KS_CSV_KSMM);
    assert_int_equal(ks_csv_format_parse("ksauto", &format), KS_OK);
    assert_int_equal(format, KS_CSV_KSAUTO);
    assert_failure(ks_csv_format_parse("xlsx", &format), KS_ERR_PARSE, "xlsx", "ksauto, ksmm");
}

/* --- the paper's format ------------------------------------------------------------------------------------ */

static void test_ksmm(void **state)
{
    static const char text[] = KSMM "\"[[6, 64, 48, 2]]\",25088,kernel,bs_first,fp16,Tesla,0.5,8\n"
                                    "\"[[1,1,1,1]]\",1,monarch,bs_last,fp32,Tesla,5804.0,64.0\n"
                                    "\" [ [ 1 , 1 , 1 , 1 ] ] \",1,bmm,bs_last,fp64,Tesla,2,1\n"
                                    "\"[[1, 1, 1, 1]]\",1,einsum,bs_last,bf16,Tesla,2,1\n"
                                    "\"[[1, 1, 1, 1]]\",1,einsum,bs_last,bf16,Tesla,2,1\n";
    (void)state;
    ks_table t = read_text(text, KS_CSV_KSMM, false);
    assert_int_equal(t.count, 5); /* doubles are kept */
    assert_int_equal(t.rows[0].problem.a, 6);
    assert_int_equal(t.rows[0].problem.b, 64);
    assert_int_equal(t.rows[0].problem.c, 48);
    assert_int_equal(t.rows[0].problem.d, 2);
    assert_int_equal(t.rows[0].problem.batch, 25088);
    assert_int_equal(t.rows[0].problem.type, KS_F16);
    assert_int_equal(t.rows[0].problem.layout, KS_BATCH_FIRST);
    assert_string_equal(t.rows[0].kernel, "ksmm.kernel");
    assert_string_equal(t.rows[0].device, "Tesla");
    assert_true(t.rows[0].time_s == 0.5 && isnan(t.rows[0].energy_j));
    assert_int_equal(t.rows[0].samples, 8);
    assert_int_equal(t.rows[0].family, KS_FUSED);
    assert_int_equal(t.rows[1].family, KS_BMM);
    assert_int_equal(t.rows[2].family, KS_BMM);
    assert_int_equal(t.rows[3].family, KS_REFERENCE);
    assert_int_equal(t.rows[2].problem.type, KS_F64);
    assert_int_equal(t.rows[3].problem.type, KS_BF16);
    ks_table_free(&t);
    t = read_text(text, KS_CSV_KSMM, true);
    assert_true(isnan(t.rows[1].time_s));
    assert_true(t.rows[1].energy_j == 5804.0 / 1000 / 64);
    ks_table_free(&t);
}

static void test_ksmm_refuses(void **state)
{
    static const char *const rows[][2] = {
        {"\"[[1, 1, 1, 1], [2, 2, 2, 2]]\",1,kernel,bs_last,fp16,T,1,1", "has 2 factors, one is supported"},
        {"\"[[1,1,1,1],[2,2,2,2],[3,3,3,3]]\",1,kernel,bs_last,fp16,T,1,1", "has 3 factors, one is supported"},
        {"\"[[1, 1, 1]]\",1,kernel,bs_last,fp16,T,1,1", "[[1, 1, 1]]"},
        {"\"[[1, 1, 1, 1, 1]]\",1,kernel,bs_last,fp16,T,1,1", "[[1, 1, 1, 1, 1]]"},
        {"\"[[1, 1, 1, 0]]\",1,kernel,bs_last,fp16,T,1,1", "[[1, 1, 1, 0]]"},
        {"\"[[1, 1, 1, -1]]\",1,kernel,bs_last,fp16,T,1,1", "-1"},
        {"\"[[1, 1, 1, 1]\",1,kernel,bs_last,fp16,T,1,1", "[[1, 1, 1, 1]"},
        {"\"[[1, 1, 1, 1]]]\",1,kernel,bs_last,fp16,T,1,1", "]]]"},
        {"\"[[1, 1, 1, 1],]\",1,kernel,bs_last,fp16,T,1,1", "],]"},
        {"[],1,kernel,bs_last,fp16,T,1,1", "\"[]\""},
        {"[[]],1,kernel,bs_last,fp16,T,1,1", "\"[[]]\""},
        {",1,kernel,bs_last,fp16,T,1,1", "pattern \"\""},
        {"\"[[1, 1, 1, 99999999999999999999]]\",1,kernel,bs_last,fp16,T,1,1", "99999999999999999999"},
        {"\"[[1, 1, 1, 1]]\",1.5,kernel,bs_last,fp16,T,1,1", "batch-size \"1.5\""},
        {"\"[[1, 1, 1, 1]]\",1,,bs_last,fp16,T,1,1", "algo \"\""},
        {"\"[[1, 1, 1, 1]]\",1,kernel,last,fp16,T,1,1", "bs_position \"last\""},
        {"\"[[1, 1, 1, 1]]\",1,kernel,bs_last,int8,T,1,1", "precision \"int8\""},
        {"\"[[1, 1, 1, 1]]\",1,kernel,bs_last,fp16,,1,1", "device"},
        {"\"[[1, 1, 1, 1]]\",1,kernel,bs_last,fp16,T,nan,1", "median \"nan\""},
        {"\"[[1, 1, 1, 1]]\",1,kernel,bs_last,fp16,T,-3,1", "median \"-3\""},
        {"\"[[1, 1, 1, 1]]\",1,kernel,bs_last,fp16,T,1e400,1", "median \"1e400\""},
        {"\"[[1, 1, 1, 1]]\",1,kernel,bs_last,fp16,T,,1", "median \"\""},
        {"\"[[1, 1, 1, 1]]\",1,kernel,bs_last,fp16,T,1,0", "nruns \"0\""},
        {"\"[[1, 1, 1, 1]]\",1,kernel,bs_last,fp16,T,1,", "nruns \"\""},
        {"\"[[1, 1, 1, 1]]\",1,kernel,bs_last,fp16,T,1,2.5", "nruns \"2.5\""},
        {"\"[[1, 1, 1, 1]]\",1,kernel,bs_last,fp16,T,1,1e300", "nruns \"1e300\""},
    };
    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        char text[512];
        snprintf(text, sizeof text, KSMM "\"[[1, 1, 1, 1]]\",1,kernel,bs_last,fp16,T,1,1\n%s\n", rows[i][0]);
        refuse_bytes(text, strlen(text), KS_CSV_KSMM, i % 2 != 0, "t.csv:3: ", rows[i][1]);
    }
    char text[512], algo[100];
    memset(algo, 'k', 99), algo[99] = '\0';
    snprintf(text, sizeof text, KSMM "\"[[1, 1, 1, 1]]\",1,%s,bs_last,fp16,T,1,1\n", algo);
    refuse(text, KS_CSV_KSMM, "t.csv:2: ", "kkkk");
    refuse(OWN, KS_CSV_KSMM, "t.csv:1: ", "\"pattern\" is missing");
}

static void test_published_table(void **state)
{
    const char *shared = getenv("KSAUTO_SHARED_DATA");
    char path[600];
    ks_table t;
    int families[KS_NFAMILIES] = {0};
    if (!shared || !*shared) skip();
    snprintf(path, sizeof path, "%s/ksmm-v100-energy.csv", shared);
    ks_status status = ks_csv_read_file(path, KS_CSV_KSMM, true, &t);
    if (status != KS_OK) fail_msg("%s", ks_status_message(status));
    assert_int_equal(t.count, 9042);
    for (size_t i = 0; i < t.count; i++) families[t.rows[i].family]++;
    assert_int_equal(families[KS_FUSED], 394 + 208 + 394 + 208);
    assert_int_equal(families[KS_BMM], 949 + 358 + 950 + 358);
    assert_true(t.rows[0].energy_j == 5804.0 / 1000 / 64);
    assert_string_equal(t.rows[0].device, "Tesla_V100-PCIE-16GB");

    ks_store *store;
    int64_t added;
    assert_int_equal(ks_store_open(&store, sandbox_path(state, "s.db"), KS_STORE_WRITE), KS_OK);
    assert_int_equal(ks_store_import(store, &t, &added), KS_OK);
    assert_int_equal(added, 9042);
    assert_int_equal(ks_store_import(store, &t, &added), KS_OK);
    assert_int_equal(added, 0);
    assert_int_equal(ks_store_check(store, NULL, NULL), KS_OK);
    ks_store_close(store);
    ks_table_free(&t);
}

/* --- panels ------------------------------------------------------------------------------------------------ */

static void test_panel(void **state)
{
    ks_panel panel;
    const char text[] = PANEL "6,64,64,1,128,f32,first\n 1, 48, 48, 8, 25088, f16, last";
    (void)state;
    assert_int_equal(ks_panel_read_text(text, sizeof text - 1, "p.csv", &panel), KS_OK);
    assert_int_equal(panel.count, 2);
    assert_int_equal(panel.problems[1].d, 8);
    assert_int_equal(panel.problems[1].type, KS_F16);
    assert_int_equal(panel.problems[1].layout, KS_BATCH_LAST);
    ks_panel_free(&panel);
    assert_null(panel.problems);
    const char bad[] = PANEL "6,64,64,1,128,f32,first\n6,64,64,1,128,f99,first\n";
    assert_failure(ks_panel_read_text(bad, sizeof bad - 1, "p.csv", &panel), KS_ERR_PARSE, "p.csv:3: dtype \"f99\"",
                   "f32, f16, bf16, f64");
    assert_null(panel.problems);
    const char large[] = PANEL "9223372036854775807,64,64,1,128,f32,first\n";
    assert_failure(ks_panel_read_text(large, sizeof large - 1, "p.csv", &panel), KS_ERR_PARSE,
                   "p.csv:2: ", "9223372036854775807");
}

/* --- and back ---------------------------------------------------------------------------------------------- */

static bool write_row(void *user, const ks_measurement *m)
{
    return ks_csv_write_row(user, m) == KS_OK;
}

static void export(ks_store *store, const char *path)
{
    FILE *out = fopen(path, "w");
    assert_non_null(out);
    assert_int_equal(ks_csv_write_header(out), KS_OK);
    assert_int_equal(ks_store_each(store, NULL, write_row, out), KS_OK);
    assert_int_equal(fclose(out), 0);
}

static void test_round_trip(void **state)
{
    ks_measurement rows[6];
    ks_store *store;
    ks_table table;
    int64_t added;
    const char *first = sandbox_path(state, "1.csv"), *second = sandbox_path(state, "2.csv");
    assert_int_equal(ks_store_open(&store, sandbox_path(state, "1.db"), KS_STORE_WRITE), KS_OK);
    for (int i = 0; i < 6; i++) {
        rows[i] =
            (ks_measurement){.problem = {1 + i, 2, 3, 4, 5, (ks_type)(i % 4), (ks_layout)(i % 2), (ks_math)(i % 2)},
                             .kernel_version = i == 5 ? 4294967295u : 2,
                             .family = (ks_family)(i % 3),
                             .status = i == 4 ? KS_ERR_WRONG_RESULT : KS_OK,
                             .time_s = i == 4 ? NAN : 1e-6 / (3 + i),
                             .spread = i == 1 ? NAN : 0.1 * i,
                             .energy_j = i == 2   ? 5e-324
                                         : i == 3 ? 1.7976931348623157e308
                                                  : NAN,
                             .samples = i * 1000,
                             .measured_at_s = 1763812345.678901 + i};
        snprintf(rows[i].device, sizeof rows[i].device, "%s",
                 i % 2 ? " \"Odd\", dev\xC3\xAF"
                         "ce "
                       : "CPU (2 threads)");
        snprintf(rows[i].kernel, sizeof rows[i].kernel, "fused.cpu");
        snprintf(rows[i].reason, sizeof rows[i].reason, "%s", i == 4 ? "y[3] is \"1\",\n not 2\r\n" : "");
        assert_int_equal(ks_store_add(store, &rows[i], NULL), KS_OK);
    }
    /* the numbers must not depend on the locale */
    const char *locales[] = {"de_DE.UTF-8", "de_DE.utf8", "fr_FR.UTF-8", "C.UTF-8"};
    for (int i = 0; i < 4 && !setlocale(LC_ALL, locales[i]); i++) continue;
    export(store, first);
    assert_int_equal(ks_csv_read_file(first, KS_CSV_KSAUTO, false, &table), KS_OK);
    assert_int_equal(table.count, 6);
    for (int i = 0; i < 6; i++) {
        ks_measurement *m = &table.rows[i];
        assert_same_problem(&m->problem, &rows[i].problem);
        assert_string_equal(m->device, rows[i].device);
        assert_string_equal(m->reason, rows[i].reason);
        assert_int_equal(m->kernel_version, rows[i].kernel_version);
        assert_true(m->time_s == rows[i].time_s || i == 4);
        assert_true(m->energy_j == rows[i].energy_j || isnan(rows[i].energy_j));
        assert_true(m->measured_at_s == rows[i].measured_at_s);
    }
    assert_int_equal(ks_store_import(store, &table, &added), KS_OK);
    assert_int_equal(added, 0); /* all there */
    ks_store_close(store);

    assert_int_equal(ks_store_open(&store, sandbox_path(state, "2.db"), KS_STORE_WRITE), KS_OK);
    assert_int_equal(ks_store_import(store, &table, &added), KS_OK);
    assert_int_equal(added, 6);
    export(store, second);
    setlocale(LC_ALL, "C");
    ks_store_close(store);
    ks_table_free(&table);
    size_t bytes;
    char *text = file_read(first, &bytes);
    file_assert_equal(second, text, bytes);
    assert_int_equal(strncmp(text, OWN, sizeof OWN - 2), 0); /* the 14 columns first */
    free(text);

    FILE *full = fopen("/dev/full", "w");
    assert_non_null(full);
    setvbuf(full, NULL, _IONBF, 0);
    assert_failure(ks_csv_write_row(full, &rows[0]), KS_ERR_IO, "written", NULL);
    fclose(full);
    rows[0].time_s = -1;
    assert_failure(ks_csv_write_row(stderr, &rows[0]), KS_ERR_ARGUMENT, "-1", NULL);
}

static void test_numbers(void **state)
{
    double value;
    int64_t whole;
    char text[32];
    (void)state;
    assert_true(ks_text_to_real("1.5e-3", &value) && value == 1.5e-3);
    assert_true(ks_text_to_real("5", &value) && value == 5);
    assert_false(ks_text_to_real("1,5", &value));
    assert_false(ks_text_to_real("", &value));
    assert_true(ks_text_to_int("-9223372036854775808", &whole) && whole == INT64_MIN);
    assert_false(ks_text_to_int("-", &whole));
    assert_false(ks_text_to_int(" 1", &whole));
    assert_string_equal(ks_real_to_text(0.1, text), "0.1");
    assert_string_equal(ks_real_to_text(1e-6, text), "1e-06");
    assert_string_equal(ks_real_to_text(NAN, text), "");
    unsigned long long bits = 88172645463325252ull;
    for (int i = 0; i < 20000; i++) {
        bits ^= bits << 13, bits ^= bits >> 7, bits ^= bits << 17;
        double x, y;
        memcpy(&x, &bits, sizeof x);
        if (!isfinite(x)) continue;
        assert_true(ks_text_to_real(ks_real_to_text(x, text), &y) && x == y);
    }
}

#define TEST(function) cmocka_unit_test_setup_teardown(function, sandbox_enter, sandbox_leave)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_own),   TEST(test_shapes),     TEST(test_own_refuses),  TEST(test_broken_files),
        TEST(test_files), TEST(test_ksmm),       TEST(test_ksmm_refuses), TEST(test_published_table),
        TEST(test_panel), TEST(test_round_trip), TEST(test_numbers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
