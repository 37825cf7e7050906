/* ksauto advise --explain: an advice taken apart, for people and for programs. */
#ifndef EXPLAIN_H
#define EXPLAIN_H

#include "cli.h"

void explain_print(const ks_explanation *why);
cJSON *explain_json(const ks_explanation *why);

#endif
