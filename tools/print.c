/* How the command prints quantities and JSON. Three significant digits with a unit, because more of them would be noise
 * in a measured time and fewer would hide a 2 % tie. */
#include "cli.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>

/* value scaled by the largest prefix that leaves at least 1; 999.5 and more rounds up into the next prefix. */
static cli_text scaled(double value, const char *unit, int lowest)
{
    static const char *const prefixes[] = {"n", "u", "m", "", "k", "M", "G", "T", "P"};
    enum { NONE = 3, LAST = 8 };
    cli_text text = {"-"};
    if (!isfinite(value)) return text;
    int prefix = NONE;
    double size = fabs(value);
    while (size >= 999.5 && prefix < LAST) size /= 1000, prefix++;
    while (size < 0.9995 && size > 0 && prefix > lowest) size *= 1000, prefix--;
    int decimals = size >= 99.95 ? 0 : size >= 9.995 ? 1 : 2;
    snprintf(text.s, sizeof text.s, "%.*f %s%.8s", decimals, value < 0 ? -size : size, prefixes[prefix], unit);
    return text;
}

cli_text cli_time(double seconds)
{
    if (isfinite(seconds) && seconds >= 999.5) {
        cli_text text;
        snprintf(text.s, sizeof text.s, "%.4g s", seconds); /* never "ks" */
        return text;
    }
    return scaled(seconds, "s", 0);
}

cli_text cli_energy(double joules)
{
    return scaled(joules, "J", 0);
}

cli_text cli_rate(double per_s, const char *unit)
{
    return scaled(per_s, unit, 3);
}

cli_text cli_percent(double fraction)
{
    cli_text text = {"-"};
    double percent = 100 * fraction;
    if (!isfinite(percent)) return text;
    double size = fabs(percent);
    snprintf(text.s, sizeof text.s, "%.*f %%", size >= 99.95 ? 0 : size >= 9.995 ? 1 : 2, percent);
    return text;
}

int cli_print_json(cJSON *object)
{
    int code = CLI_DONE;
    char *text = object ? cJSON_Print(object) : NULL;
    if (!text)
        code = cli_fail("not enough memory for the result");
    else if (puts(text) == EOF || fflush(stdout) != 0)
        code = cli_fail("standard output cannot be written");
    cJSON_free(text);
    cJSON_Delete(object);
    return code;
}

cJSON *cli_result_json(void)
{
    cJSON *object = cJSON_CreateObject();
    cli_add_integer(object, "schema_version", CLI_SCHEMA_VERSION);
    return object;
}

cJSON *cli_problem_json(const ks_problem *problem)
{
    cJSON *object = cJSON_CreateObject();
    cli_add_integer(object, "a", problem->a);
    cli_add_integer(object, "b", problem->b);
    cli_add_integer(object, "c", problem->c);
    cli_add_integer(object, "d", problem->d);
    cli_add_integer(object, "batch", problem->batch);
    cJSON_AddStringToObject(object, "dtype", ks_type_name(problem->type));
    cJSON_AddStringToObject(object, "layout", ks_layout_name(problem->layout));
    cJSON_AddStringToObject(object, "math", ks_math_name(problem->math));
    return object;
}

void cli_add_number(cJSON *object, const char *name, double value)
{
    if (isfinite(value))
        cJSON_AddNumberToObject(object, name, value);
    else
        cJSON_AddNullToObject(object, name);
}

void cli_add_integer(cJSON *object, const char *name, int64_t value)
{
    char digits[24];
    snprintf(digits, sizeof digits, "%" PRId64, value);
    cJSON_AddRawToObject(object, name, digits);
}

void cli_add_rates(cJSON *object, double copy_bytes_per_s, const double gemm_flops_per_s[KS_NTYPES])
{
    cli_add_number(object, "copy_bytes_per_s", copy_bytes_per_s > 0 ? copy_bytes_per_s : NAN);
    cJSON *gemm = cJSON_AddObjectToObject(object, "gemm_flops_per_s");
    for (int type = 0; type < KS_NTYPES; type++)
        cli_add_number(gemm, ks_type_name((ks_type)type), gemm_flops_per_s[type] > 0 ? gemm_flops_per_s[type] : NAN);
}
