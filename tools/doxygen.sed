# Turns the header's plain comments into Doxygen's: the first one is the file's, one behind a declaration is about it, others
# are about what follows; headings between lines of dashes become groups of nothing, and go.
1s|^/\* ksauto: |/** @file\n * |
/^\/\* -{20,}/,/-{20,} \*\/$/d
s|^/\* |/** |
s|(^.*[;,{[:alnum:])].*[[:space:]])/\* |\1/**< |
