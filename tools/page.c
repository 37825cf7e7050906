/* The page of `ksauto report`: one file that needs nothing else, neither network nor script, and is read on a phone as well.
 *
 * Pictures are in it as data, each with what it shows in words. Dark text on white; the text's colours are the pictures'. */
#include "cli.h"
#include "study.h"

#include "error.h"
#include "output.h"
#include <math.h>
#include <string.h>
#include <time.h>

static const char style[] =
    ":root{color-scheme:light}*{box-sizing:border-box}\n"
    "body{margin:0 auto;max-width:72rem;padding:1.5rem 1rem 4rem;background:#fff;color:#1a1a1a;"
    "font:1rem/1.55 system-ui,-apple-system,'Segoe UI',Roboto,'DejaVu Sans',sans-serif}\n"
    "h1{font-size:1.7rem;line-height:1.2;margin:.5rem 0}h2{font-size:1.25rem;margin:3rem 0 .25rem}"
    "h3{font-size:1rem;margin:0 0 .25rem}\n"
    "p{max-width:44rem;margin:.5rem 0}nav a{display:inline-block;margin:0 1rem .3rem 0}a{color:#005b96}\n"
    ".scroll{overflow-x:auto}table{border-collapse:collapse;margin:1rem 0;font-variant-numeric:tabular-nums}\n"
    "th,td{padding:.3rem .8rem;text-align:right;border-bottom:1px solid #d8d8d8;white-space:nowrap}"
    "th:first-child,td:first-child{text-align:left}thead th{border-bottom:2px solid #555}\n"
    ".advisor{color:#00694b;font-weight:600}.fused{color:#005b96}.bmm{color:#b04a00}.other{color:#595959}\n"
    "@media(max-width:40rem){th,td{padding:.3rem .4rem;font-size:.85rem}thead "
    "th,th:first-child{white-space:normal}}\n"
    ".grid{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,26rem),1fr));gap:1.5rem;margin-top:"
    "1rem}\n"
    "figure{margin:0}figure img{display:block;width:100%;max-width:36rem;height:auto}"
    "figcaption{font-size:.95rem;color:#333;max-width:36rem}\n"
    "footer{margin-top:3rem;color:#595959;font-size:.9rem}\n";

static void put_text(FILE *out, const char *text)
{
    for (; *text; text++) switch (*text) {
        case '<':
            fputs("&lt;", out);
            break;
        case '>':
            fputs("&gt;", out);
            break;
        case '&':
            fputs("&amp;", out);
            break;
        case '"':
            fputs("&quot;", out);
            break;
        default:
            fputc(*text, out);
        }
}

static ks_status put_base64(FILE *out, const char *path)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    unsigned char three[3];
    size_t count;
    FILE *in = fopen(path, "rb");
    if (!in) return ks_fail(KS_ERR_IO, "%s: cannot be read: %m", path);
    while ((count = fread(three, 1, 3, in)) > 0) {
        const unsigned bits = three[0] << 16 | (count > 1 ? three[1] << 8 : 0) | (count > 2 ? three[2] : 0);
        for (size_t i = 0; i < 4; i++) fputc(i <= count ? digits[bits >> (18 - 6 * i) & 63] : '=', out);
    }
    const bool failed = ferror(in);
    fclose(in);
    return failed ? ks_fail(KS_ERR_IO, "%s: cannot be read", path) : KS_OK;
}

static void put_kind(FILE *out, const study *s)
{
    fprintf(out, "%s, batch-%s", ks_type_name(s->type), ks_layout_name(s->layout));
}

static ks_status put_figure(FILE *out, const char *dir, const study_plot *plot, const study *s)
{
    char path[4096], text[512];
    snprintf(path, sizeof path, "%s/%s.svg", dir, study_name_of(plot, s).s);
    FILE *says = fmemopen(text, sizeof text, "w");
    if (!says) return ks_fail(KS_ERR_MEMORY, "out of memory for a caption");
    plot->says(says, s);
    fclose(says);
    text[sizeof text - 1] = '\0';
    fputs("<figure><h3>", out);
    put_kind(out, s);
    fprintf(out, "</h3>\n<img width=\"%d\" height=\"%d\" alt=\"", plot->width, plot->height);
    fprintf(out, "%s: ", plot->title);
    put_text(out, text);
    fputs("\" src=\"data:image/svg+xml;base64,", out);
    const ks_status status = put_base64(out, path);
    fputs("\">\n<figcaption>", out);
    put_text(out, text);
    fputs("</figcaption></figure>\n", out);
    return status;
}

static void put_regret(FILE *out, const char *class, const ks_regret *regret)
{
    fprintf(out, "<td class=\"%s\">%s</td>", class, cli_percent(regret->mean).s);
}

static void put_table(FILE *out, const study *studies, int count)
{
    fputs(
        "<div class=\"scroll\" tabindex=\"0\" role=\"region\" aria-label=\"Mean regret\"><table>\n<thead><tr>"
        "<th scope=\"col\">mean regret</th><th scope=\"col\">problems</th><th scope=\"col\" class=\"advisor\">advisor"
        "</th><th scope=\"col\">its 95th percentile</th><th scope=\"col\" class=\"fused\">always fused</th>"
        "<th scope=\"col\" class=\"bmm\">always bmm</th><th scope=\"col\" class=\"other\">best ratio rule</th></tr>"
        "</thead>\n<tbody>\n",
        out);
    for (const study *s = studies; s < studies + count; s++) {
        const ks_acceptance *a = &s->acceptance;
        fputs("<tr><th scope=\"row\">", out);
        put_kind(out, s);
        fprintf(out, "</th><td>%d</td>", a->advisor.problems);
        put_regret(out, "advisor", &a->advisor);
        fprintf(out, "<td>%s</td>", cli_percent(a->advisor.p95).s);
        put_regret(out, "fused", &a->always_fused);
        put_regret(out, "bmm", &a->always_bmm);
        put_regret(out, "other", &a->ratio);
        fputs("</tr>\n", out);
    }
    fputs("</tbody></table></div>\n", out);
}

/* Whether the models are of kernels that this build lacks, and know them by generic costs. */
static bool has_foreign_kernels(const study *s)
{
    for (int q = 0; q < s->cases.kernels; q++)
        if (ks_kernel_is_foreign(s->cases.kernel[q])) return true;
    return false;
}

static void put_head(FILE *out, const study *s)
{
    const ks_device *device = s->device;
    char day[32] = "";
    const time_t now = time(NULL);
    struct tm utc;
    if (gmtime_r(&now, &utc)) strftime(day, sizeof day, "%Y-%m-%d", &utc);
    fputs("<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n"
          "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<title>ksauto on ",
          out);
    put_text(out, device->name);
    fprintf(out, "</title>\n<style>\n%s</style></head>\n<body>\n<main>\n<h1>ksauto on ", style);
    put_text(out, device->name);
    fputs("</h1>\n<p>Products by Kronecker-sparse matrices are computed by a <b class=\"fused\">fused</b> kernel or "
          "by a "
          "batched GEMM, <b class=\"bmm\">bmm</b>. Which is faster depends on the problem and the machine; the <b "
          "class=\"advisor\">advisor</b> predicts it from measurements. <b>Regret</b> is what a choice takes longer "
          "than "
          "the best kernel would have: 0 is perfect.</p>\n<p>",
          out);
    fprintf(out, "Copies %s, GEMM in f32 %s", cli_rate(device->copy_bytes_per_s, "B/s").s,
            cli_rate(device->gemm_flops_per_s[KS_F32], "FLOP/s").s);
    fprintf(out, ". Made by ksauto %s on %s; all figures are of patterns that the models behind them had not seen.",
            ks_version(), day);
    if (has_foreign_kernels(s))
        fputs(" This build lacks the device's kernels, and judges their costs in general terms: one that has them "
              "does better.",
              out);
    fputs("</p>\n", out);
}

ks_status study_write_page(const char *dir, const study *studies, int count)
{
    char path[4096];
    output out;
    snprintf(path, sizeof path, "%s/index.html", dir);
    ks_status status = output_open(&out, path);
    if (status != KS_OK) return status;
    put_head(out.file, &studies[0]);
    put_table(out.file, studies, count);
    fputs("<nav aria-label=\"Pictures\">", out.file);
    for (const study_plot *plot = study_plots; plot < study_plots + STUDY_PLOTS; plot++)
        fprintf(out.file, "<a href=\"#%s\">%s</a>\n", plot->name, plot->title);
    fputs("</nav>\n", out.file);
    for (const study_plot *plot = study_plots; status == KS_OK && plot < study_plots + STUDY_PLOTS; plot++) {
        fprintf(out.file, "<section><h2 id=\"%s\">%s</h2>\n<p>%s</p>\n<div class=\"grid\">\n", plot->name,
                plot->title, plot->reading);
        for (int i = 0; status == KS_OK && i < count; i++) status = put_figure(out.file, dir, plot, &studies[i]);
        fputs("</div></section>\n", out.file);
    }
    fputs("</main>\n<footer>Every picture lies beside this page as SVG, as PNG, and as the gnuplot script with its "
          "numbers.</footer>\n</body></html>\n",
          out.file);
    if (status != KS_OK) {
        output_discard(&out);
        return status;
    }
    return output_commit(&out);
}
