/* What --help says, in the forms that people and programs want it in, all made of the same words. */
#ifndef HELP_H
#define HELP_H

#include "cli.h"

/* Of a command, or of ksauto itself (command NULL). form: NULL or "" is text for a terminal, 80 columns wide; "man" a manual
 * page; "options" what the shell's completion reads: a line for each option, and for each COMMAND or ACTION that about lists,
 * as WORD, METAVAR, the valid values, and the help, with tabs between. False: there is no such form. */
bool help_print(const char *form, const char *command, const char *synopsis, const char *about,
                const cli_option *options, int count);

#endif
