/* Parent and child share a page that says what the child is at. So there is nothing to read from a pipe that a crash has cut, and
 * nothing to write to the store for every run that goes well. Who killed the child counts: a signal that people and systems send
 * says nothing of the kernel that happened to run, all other ends do. */
#include "apart.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static const double look_every_s = 0.05;

static volatile pid_t child_of_signals;

apart_note *apart_open(void)
{
    void *page = mmap(NULL, sizeof(apart_note), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    return page == MAP_FAILED ? NULL : page;
}

void apart_close(apart_note *note)
{
    if (note) munmap(note, sizeof *note);
}

void apart_running(apart_note *note, const ks_measurement *running)
{
    note->is_running = running != NULL;
    if (running) note->running = *running;
    note->turns++;
}

static void pass_on(int signal_number)
{
    if (child_of_signals > 0) kill(child_of_signals, signal_number);
}

/* A terminal's Ctrl-C reaches both; the child takes two that come at once for one. Returns what was there before. */
static void listen(struct sigaction before[3], bool on)
{
    static const int signals[] = {SIGINT, SIGTERM, SIGHUP};
    struct sigaction passing = {.sa_handler = pass_on, .sa_flags = SA_RESTART};
    sigemptyset(&passing.sa_mask);
    for (int i = 0; i < 3; i++) {
        if (!on)
            sigaction(signals[i], &before[i], NULL);
        else if (sigaction(signals[i], NULL, &before[i]) == 0 && before[i].sa_handler != SIG_IGN)
            sigaction(signals[i], &passing, NULL);
    }
}

/* Ends people and systems bring about; the last is a terminal's quit, and a pipe's reader that has gone. */
static bool is_from_outside(int signal_number)
{
    static const int outside[] = {SIGKILL, SIGTERM, SIGINT, SIGHUP, SIGQUIT, SIGPIPE, SIGXCPU, SIGALRM};
    for (size_t i = 0; i < sizeof outside / sizeof *outside; i++)
        if (outside[i] == signal_number) return true;
    return false;
}

/* Looks at the child until it has ended, and kills it if nothing has changed for as many looks as patience takes: while this
 * process is stopped, as by Ctrl-Z, it does not look. True if it was killed. */
static bool await(pid_t child, const apart_note *note, double patience_s, int *status)
{
    const struct timespec pause = {0, (long)(look_every_s * 1e9)};
    unsigned turns = note->turns;
    double waited_s = 0;
    bool killed = false;
    while (waitpid(child, status, WNOHANG) != child) {
        nanosleep(&pause, NULL);
        waited_s = note->is_running && note->turns == turns ? waited_s + look_every_s : 0;
        turns = note->turns;
        if (waited_s > patience_s && !killed) killed = kill(child, SIGKILL) == 0;
    }
    return killed;
}

static apart_end crashed(apart_note *note, const char *how)
{
    note->running.status = KS_ERR_INTERNAL;
    snprintf(note->running.reason, sizeof note->running.reason, "%s", how);
    return APART_CRASHED;
}

apart_end apart_run(apart_note *note, double patience_s, int *code)
{
    struct sigaction before[3];
    char how[64];
    int status;
    const pid_t self = getpid();
    note->is_running = note->returned = false;
    note->status = KS_OK;
    const pid_t child = fork();
    if (child == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (getppid() != self) _exit(1); /* it has gone already */
        return APART_CHILD;
    }
    if (child < 0) return APART_FAILED;
    child_of_signals = child;
    listen(before, true);
    const bool hung = await(child, note, patience_s, &status);
    child_of_signals = 0;
    listen(before, false);

    *code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    if (note->returned) return note->status == KS_ERR_DEVICE && note->is_running ? APART_LOST : APART_RETURNED;
    snprintf(how, sizeof how, "did not return in %.3g s", patience_s);
    if (hung) return crashed(note, how);
    if (!note->is_running || (WIFSIGNALED(status) && is_from_outside(WTERMSIG(status)))) return APART_RETURNED;
    if (WIFSIGNALED(status))
        snprintf(how, sizeof how, "crashed: %s", strsignal(WTERMSIG(status)));
    else
        snprintf(how, sizeof how, "ended the process, exit code %d", WEXITSTATUS(status));
    return crashed(note, how);
}
