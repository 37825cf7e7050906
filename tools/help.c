/* Help, manual pages and completion from one source: the tables of options that the commands parse by, what they say of themselves,
 * and the examples below. What is made of it cannot fall behind it.
 *
 * Text is filled to the width of a terminal here, so that nobody has to break lines by hand; a line that begins with a blank is
 * an item of a list and stays by itself. */
#include "help.h"

#include <ctype.h>
#include <string.h>

enum { WIDTH = 79 };

static const struct {
    const char *command, *line, *what;
} examples[] = {
    {NULL, "ksauto advise 1,192,48,2 --batch 25088", "What is fastest here for this pattern, and by how much."},
    {NULL, "ksauto calibrate --budget 2m", "Measure this machine, so that advice is about it."},
    {"advise", "ksauto advise 1,192,48,2 --batch 25088", "What this CPU takes for a factor of ViT-S/16."},
    {"advise", "ksauto advise 6,64,64,1 --batch 512 --device \"NVIDIA H100\" --explain",
     "A GPU that is not here, and why."},
    {"advise", "ksauto advise 1,768,192,2 --batch 25088 --json", "For programs."},
    {"advise", "ksauto advise --search 1024x4096 --params 10%", "Which chain of factors to make a layer of."},
    {"advise --search", "ksauto advise --search 1024x4096 --params 10%", "Two or three factors, batch 4096."},
    {"advise --search", "ksauto advise --search 768x768 --params 25% --factors 2 --device \"NVIDIA H100\"",
     "Monarch layers, for a GPU that is not here."},
    {"bench", "ksauto bench", "The six factors of ViT-S/16, every kernel."},
    {"bench", "ksauto bench --panel tools/panel-cpu.csv --csv times.csv",
     "A panel of your own; its times to a file."},
    {"bench", "ksauto bench --random 100 --seed 1 --csv fresh.csv", "Fresh problems, to judge the advisor by."},
    {"calibrate", "ksauto calibrate", "A minute, float32, both layouts."},
    {"calibrate", "ksauto calibrate --dry-run --budget 10m --dtype all", "What that would do, without doing it."},
    {"calibrate", "ksauto calibrate --device cuda:0 --target-regret 1%", "A GPU, until 1 % is expected to be lost."},
    {"db", "ksauto db info", "What has been measured so far."},
    {"db", "ksauto db export --out measurements.csv", "All of it as CSV."},
    {"db check", "ksauto db check", "Exit status 1, and what to do, if something is wrong."},
    {"db export", "ksauto db export --out measurements.csv", "All measurements."},
    {"db export", "ksauto db export --seed cpu --out-prefix my-machine", "One device, as the library ships them."},
    {"db import", "ksauto db import measurements.csv", "The way back."},
    {"db import", "ksauto --db seeds.db db import --seed db/seeds/nvidia-h200", "A shipped device."},
    {"db info", "ksauto --db other.db db info", "Of a store by name."},
    {"db merge", "ksauto db merge other.db", "What another machine, or another user, has measured."},
    {"db path", "ksauto db path", "For scripts that back it up."},
    {"devices", "ksauto devices", "This machine, the store's devices, and those that ship."},
    {"evaluate", "ksauto evaluate --cv 5", "Cross-validation on what the store holds."},
    {"evaluate", "ksauto evaluate --csv fresh.csv", "The store's models on fresh measurements."},
    {"fit", "ksauto fit --device cpu", "After an import, say."},
    {"matmul", "ksauto matmul --pattern 6,64,64,1 --x X.npy --k K.npy --out Y.npy", "By the faster path."},
    {"matmul", "ksauto matmul --pattern 6,64,64,1 --x X.npy --k K.npy --out Y.npy --path bmm", "By the other."},
    {"pin", "ksauto pin --panel tools/panel-cpu.csv --out decisions.csv", "For KSAUTO_DECISIONS to name."},
    {"report", "ksauto report --out report", "This CPU: open report/index.html."},
    {"report", "ksauto report --out h100 --device \"NVIDIA H100\" --dtype f32", "A device that ships."},
};

static bool is_of(const char *command, int i)
{
    const char *of = examples[i].command;
    return command && of ? strcmp(command, of) == 0 : command == of;
}

/* ---- Text ---- */

/* Fills words into lines of WIDTH columns; the first stands at column `at` already, the others are indented. */
static void fill(const char *text, int at, int indent)
{
    int column = at;
    while (*text) {
        const int length = (int)strcspn(text, " \n");
        if (length && column > indent && column + 1 + length > WIDTH) column = printf("\n%*s", indent, "") - 1;
        if (length && column > indent) column += printf(" ");
        column += printf("%.*s", length, text);
        text += length;
        text += strspn(text, " \n");
    }
    putchar('\n');
}

/* Paragraphs are filled, items (lines that begin with a blank) stand by themselves. */
static void fill_all(const char *text)
{
    char paragraph[2048];
    while (*text) {
        size_t used = 0;
        if (*text == ' ') { /* "  word  what it is", whose lines begin below each other */
            size_t start = strspn(text, " ");
            start += strcspn(text + start, " \n");
            start += strspn(text + start, " ");
            used = strcspn(text, "\n");
            snprintf(paragraph, sizeof paragraph, "%.*s", (int)(used - start), text + start);
            printf("%.*s", (int)start, text);
            fill(paragraph, (int)start, (int)start);
            text += used + (text[used] == '\n');
            if (*text == '\n') putchar('\n'), text++;
            continue;
        }
        while (text[used] && !(text[used] == '\n' && (text[used + 1] == ' ' || text[used + 1] == '\n'))) used++;
        snprintf(paragraph, sizeof paragraph, "%.*s", (int)used, text);
        fill(paragraph, 0, 0);
        text += used + (text[used] == '\n');
        if (*text == '\n') putchar('\n'), text++;
    }
}

static void print_heading(const char *heading)
{
    printf("%s%s%s", cli_look(stdout, "1"), heading, cli_look(stdout, "0"));
}

static void print_text(const char *command, const char *synopsis, const char *about, const cli_option *options,
                       int count)
{
    int width = 0;
    for (int i = 0; i < count; i++) {
        const char *metavar = options[i].metavar;
        const int length = (int)strlen(options[i].name) + (metavar ? 1 + (int)strlen(metavar) : 0);
        if (length > width) width = length;
    }
    print_heading("Usage:");
    putchar(' ');
    for (const char *line = synopsis; *line; line += strspn(line, "\n ")) { /* its lines are forms of their own */
        char form[512];
        const size_t length = strcspn(line, "\n");
        snprintf(form, sizeof form, "%.*s", (int)length, line);
        if (line != synopsis) printf("       ");
        fill(form, 7, 7 + 4);
        line += length;
    }
    putchar('\n');
    fill_all(about);
    putchar('\n');
    print_heading("Options:\n");
    for (int i = 0; i < count; i++) {
        const cli_option *o = &options[i];
        char text[512];
        snprintf(text, sizeof text, "%s%s", o->help, o->required ? " (required)" : "");
        const int length = printf("  --%s%s%s", o->name, o->metavar ? " " : "", o->metavar ? o->metavar : "");
        printf("%*s", width + 6 - length, "");
        fill(text, width + 6, width + 6);
    }
    bool begun = false;
    for (int i = 0; i < (int)(sizeof examples / sizeof *examples); i++) {
        if (!is_of(command, i)) continue;
        if (!begun) putchar('\n'), print_heading("Examples:\n");
        begun = true;
        printf("  %s\n      %s\n", examples[i].line, examples[i].what);
    }
}

/* ---- Manual pages ---- */

/* Text as troff takes it literally. */
static void put_roff(const char *text)
{
    bool at_start = true;
    for (; *text; text++) {
        if (at_start && (*text == '.' || *text == '\'')) fputs("\\&", stdout);
        at_start = *text == '\n';
        if (*text == '\\')
            fputs("\\e", stdout);
        else if (*text == '-')
            fputs("\\-", stdout);
        else if (*text == '"')
            fputs("\\(dq", stdout);
        else
            putchar(*text);
    }
}

/* "db import" -> "KSAUTO-DB-IMPORT". */
static void put_title(const char *command, bool upper)
{
    fputs(upper ? "KSAUTO" : "ksauto", stdout);
    if (command) putchar('-');
    for (const char *p = command; p && *p; p++) putchar(*p == ' ' ? '-' : upper ? toupper((unsigned char)*p) : *p);
}

static void put_about(const char *about)
{
    for (; *about; about += strspn(about, "\n")) {
        const size_t length = strcspn(about, "\n");
        char line[1024];
        snprintf(line, sizeof line, "%.*s", (int)length, about);
        const char *word = line + strspn(line, " ");
        if (word != line) { /* an item: "  word  what it does" */
            const size_t end = strcspn(word, " ");
            printf(".TP\n.B %.*s\n", (int)end, word);
            put_roff(word + end + strspn(word + end, " "));
        } else
            put_roff(line);
        putchar('\n');
        about += length;
        if (about[0] == '\n' && about[1] == '\n') puts(".PP");
    }
}

static void print_man(const char *command, const char *synopsis, const char *about, const cli_option *options,
                      int count)
{
    fputs(".TH ", stdout);
    put_title(command, true);
    printf(" 1 \"\" \"ksauto %s\" \"User Commands\"\n.nh\n.SH NAME\n", ks_version());
    put_title(command, false);
    fputs(" \\- ", stdout);
    char first[256];
    size_t end = strcspn(about, ".,;:\n"); /* of the first phrase: a stop that a blank follows */
    while (about[end] && about[end] != '\n' && !isspace((unsigned char)about[end + 1]))
        end += 1 + strcspn(about + end + 1, ".,;:\n");
    snprintf(first, sizeof first, "%.*s", (int)end, about);
    put_roff(first);
    puts("\n.SH SYNOPSIS");
    for (const char *line = synopsis; *line; line += strspn(line, "\n ")) {
        const size_t length = strcspn(line, "\n");
        char form[512];
        snprintf(form, sizeof form, "%.*s", (int)length, line);
        if (line != synopsis) puts(".br");
        put_roff(form);
        putchar('\n');
        line += length;
    }
    puts(".SH DESCRIPTION");
    put_about(about);
    puts(".SH OPTIONS");
    for (int i = 0; i < count; i++) {
        const cli_option *o = &options[i];
        fputs(".TP\n.BR \\-\\-", stdout);
        put_roff(o->name);
        if (o->metavar) printf(" \" \\fI%s\\fR\"", o->metavar);
        putchar('\n');
        put_roff(o->help);
        puts(o->required ? " (required)" : "");
    }
    puts(".SH EXAMPLES");
    for (int i = 0; i < (int)(sizeof examples / sizeof *examples); i++) {
        if (!is_of(command, i)) continue;
        fputs(".TP\n.B ", stdout);
        put_roff(examples[i].line);
        putchar('\n');
        put_roff(examples[i].what);
        putchar('\n');
    }
    puts(".SH EXIT STATUS\n0 done, 1 failed, 2 misused.\n.SH SEE ALSO");
    puts(command ? ".BR ksauto (1)" : ".BR ksauto\\-advise (1),\n.BR ksauto\\-calibrate (1);\nthe header ksauto.h");
}

/* ---- Completion ---- */

static void print_options(const char *synopsis, const char *about, const cli_option *options, int count)
{
    const bool has_words =
        strstr(synopsis, "COMMAND") || strstr(synopsis, "ACTION"); /* else the items are other things */
    for (const char *line = has_words ? about : ""; *line; line += strspn(line, "\n")) {
        const int length = (int)strcspn(line, "\n"), start = (int)strspn(line, " ");
        if (start && start < length) {
            const int word = (int)strcspn(line + start, " "), gap = (int)strspn(line + start + word, " ");
            printf("%.*s\t\t\t%.*s\n", word, line + start, length - start - word - gap, line + start + word + gap);
        }
        line += length;
    }
    for (int i = 0; i < count; i++) {
        const cli_option *o = &options[i];
        printf("--%s\t%s\t%s\t%s\n", o->name, o->metavar ? o->metavar : "", cli_words_of(o->kind), o->help);
    }
}

bool help_print(const char *form, const char *command, const char *synopsis, const char *about,
                const cli_option *options, int count)
{
    if (!form || !*form)
        print_text(command, synopsis, about, options, count);
    else if (strcmp(form, "man") == 0)
        print_man(command, synopsis, about, options, count);
    else if (strcmp(form, "options") == 0)
        print_options(synopsis, about, options, count);
    else
        return false;
    return true;
}
