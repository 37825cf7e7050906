/* Having gnuplot draw a picture.
 *
 * gnuplot is a program of its own, run on a script that stays beside the pictures: who wants another size, or the numbers, finds
 * both there, and `gnuplot NAME.gp` draws it again. */
#include "study.h"

#include "error.h"
#include "output.h"
#include "place.h"
#include <errno.h>
#include <fcntl.h>
#include <spawn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

/* Runs gnuplot on one argument, in a folder; its messages go to standard error, what it prints nowhere. */
static int run_gnuplot(const char *folder, const char *argument)
{
    char program[] = "gnuplot", word[256];
    char *const arguments[] = {program, word, NULL};
    posix_spawn_file_actions_t actions;
    pid_t child;
    int code = -1;
    snprintf(word, sizeof word, "%s", argument);
    if (posix_spawn_file_actions_init(&actions) != 0) return -1;
    if (posix_spawn_file_actions_addchdir_np(&actions, folder) == 0 &&
        posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0) == 0 &&
        posix_spawn_file_actions_addopen(&actions, STDOUT_FILENO, "/dev/null", O_WRONLY, 0) == 0 &&
        posix_spawnp(&child, program, &actions, NULL, arguments, environ) == 0) {
        while (waitpid(child, &code, 0) < 0 && errno == EINTR) {}
        code = WIFEXITED(code) ? WEXITSTATUS(code) : -1;
    }
    posix_spawn_file_actions_destroy(&actions);
    return code;
}

ks_status study_can_draw(void)
{
    return run_gnuplot("/", "--version") == 0
               ? KS_OK
               : ks_fail(KS_ERR_UNSUPPORTED,
                         "the pictures are drawn by gnuplot, which is not installed or does not start; "
                         "on Debian: apt-get install gnuplot-nox");
}

study_name study_name_of(const study_plot *plot, const study *s)
{
    study_name name;
    snprintf(name.s, sizeof name.s, "%s-%s-%s", plot->name, ks_type_name(s->type), ks_layout_name(s->layout));
    return name;
}

/* The script once for each of the two terminals. The PNG has two dots where the SVG has one; its fonts are counted in points of
 * 4/3 dots. */
static void write_script(FILE *out, const study_plot *plot, const study *s)
{
    const char *name = study_name_of(plot, s).s;
    fprintf(out, "# %s: %s, batch-%s, %s. Run by gnuplot it makes %s.svg and %s.png.\n", plot->title,
            ks_type_name(s->type), ks_layout_name(s->layout), s->device->name, name, name);
    plot->data(out, s);
    for (int scale = 1; scale <= 2; scale++) {
        fputs("reset\n", out);
        if (scale == 1)
            fprintf(out, "set terminal svg name '%s' size %d,%d font 'sans-serif,16' rounded background '#ffffff'\n",
                    plot->name, plot->width, plot->height);
        else
            fprintf(out,
                    "set terminal pngcairo size %d,%d font 'sans,16' fontscale 1.5 linewidth 2 pointscale 2 rounded "
                    "background '#ffffff'\n",
                    scale * plot->width, scale * plot->height);
        fprintf(out, "set output '%s.%s'\n", name, scale == 1 ? "svg" : "png");
        fputs("set border 3 lc rgb '#767676'\nset tics nomirror scale 0.6 textcolor rgb '#222222'\n"
              "set grid lc rgb '#ececec' lw 1 lt 1\n",
              out);
        plot->script(out, s);
        fputs("unset output\n", out);
    }
}

/* gnuplot opens its pictures by name, and would follow a link that somebody else has put there. */
static ks_status check_picture(const char *dir, const char *name, const char *suffix)
{
    char path[4096];
    snprintf(path, sizeof path, "%s/%s.%s", dir, name, suffix);
    return ks_place_is_planted(path)
               ? ks_fail(KS_ERR_IO, "%s: is somebody else's link, in a directory that all may write to", path)
               : KS_OK;
}

ks_status study_draw(const char *dir, const study_plot *plot, const study *s)
{
    char path[4096], script[96];
    output out;
    snprintf(script, sizeof script, "%s.gp", study_name_of(plot, s).s);
    if ((size_t)snprintf(path, sizeof path, "%s/%s", dir, script) >= sizeof path)
        return ks_fail(KS_ERR_IO, "%s: the path is too long", dir);
    ks_status status = check_picture(dir, study_name_of(plot, s).s, "svg");
    if (status == KS_OK) status = check_picture(dir, study_name_of(plot, s).s, "png");
    if (status == KS_OK) status = output_open(&out, path);
    if (status != KS_OK) return status;
    write_script(out.file, plot, s);
    status = output_commit(&out);
    if (status == KS_OK && run_gnuplot(dir, script) != 0)
        status = ks_fail(KS_ERR_IO, "gnuplot could not draw %s; its message stands above", path);
    return status;
}
