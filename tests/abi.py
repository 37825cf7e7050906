"""What programs compiled against ksauto.h rely on: prototypes, sizes and offsets of structs, values of enums.

    python3 abi.py HEADER C_COMPILER LIBRARY...          # prints it, a line each
    python3 abi.py HEADER C_COMPILER LIBRARY... < LIST   # --check as the first argument: compares with LIST

Every function of the header must be exported by one of the libraries. The list is for 64-bit machines.
"""
import difflib
import os
import re
import subprocess
import sys
import tempfile


def declarations(header):
    text = re.sub(r"/\*.*?\*/|//[^\n]*", " ", open(header, encoding="utf-8").read(), flags=re.S)
    return re.sub(r"\s+", " ", re.sub(r"(?m)^\s*#.*(\\\n.*)*", "", text))


def fields(body):
    """The names of a struct's members: a, b[2], *c, (*d)(...)."""
    for declaration in body.split(";"):
        pointer = re.search(r"\(\*(\w+)\)", declaration)
        if pointer:
            yield pointer.group(1)
        elif declaration.strip():
            for name in declaration.split(","):
                yield re.search(r"(\w+)\s*(\[[^\]]*\])*\s*$", name).group(1)


def values(text, header, compiler):
    """Sizes, offsets and enumerators, as the compiler sees them."""
    lines = []
    for name, body in re.findall(r"typedef struct (\w+) \{(.*?)\} \1;", text):
        lines.append('printf("sizeof %s %%zu\\n", sizeof(%s));' % (name, name))
        for field in fields(body):
            lines.append('printf("offsetof %s.%s %%zu, %%zu bytes\\n", offsetof(%s, %s), sizeof((%s *)0)->%s);'
                         % (name, field, name, field, name, field))
    for body in re.findall(r"enum \w*\s*\{(.*?)\}", text):
        for name in re.findall(r"(?:^|,)\s*(KS_\w+)", body):
            lines.append('printf("enum %s %%d\\n", (int)%s);' % (name, name))
    with tempfile.TemporaryDirectory() as work:
        source, program = os.path.join(work, "abi.c"), os.path.join(work, "abi")
        with open(source, "w", encoding="utf-8") as out:
            out.write('#include "%s"\n#include <stdio.h>\nint main(void) {\n%s\n}\n' % (header, "\n".join(lines)))
        subprocess.run([compiler, source, "-o", program], check=True)
        return subprocess.run([program], check=True, capture_output=True, text=True).stdout.splitlines()


def main(arguments):
    check = arguments[:1] == ["--check"]
    header, compiler, *libraries = arguments[check:]
    header = os.path.abspath(header)
    text = declarations(header)
    functions = [function.strip() for function in re.findall(r"KS_API ([^;{]*);", text)]
    exported = set()
    for library in libraries:
        listing = subprocess.run(["nm", "-D", "--defined-only", library], check=True, capture_output=True, text=True)
        exported |= {line.split()[-1].split("@")[0] for line in listing.stdout.splitlines()}
    missing = [f for f in functions if re.search(r"(ks_\w+)\(", f).group(1) not in exported]
    if missing or len(functions) < 20:
        sys.exit("declared and not exported: %s (of %d)" % (missing, len(functions)))
    now = sorted(functions) + values(text, header, compiler)
    if not check:
        print("\n".join(now))
        return
    changes = list(difflib.unified_diff(sys.stdin.read().splitlines(), now, "tests/abi.txt", "ksauto.h now", "", "", 0, ""))
    if changes:
        sys.exit("\n".join(changes) + "\nThe interface changed. Where a line went or changed, programs must be compiled anew: "
                 "raise the minor version, and SOVERSION if a release had it. Then: sh tests/test_abi.sh --write ...")
    print("abi: %d lines are as they were" % len(now))


main(sys.argv[1:])
