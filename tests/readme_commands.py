"""Every command that the README and its pages show is run, and what they show of their output has the form of what they print.

    python3 readme_commands.py SOURCE_DIR PATH_TO_KSAUTO

Commands of ```console blocks are run one after the other in a scratch folder with the files they name; what would take minutes is
made shorter (SHORTER). Numbers, kernels and devices are other ones on every machine, so output is compared with those blotted
out, as a set of lines. Commands of ```sh blocks are those of KNOWN, each with the test that runs it. The figures of the picture
are compared with what the command computes from the shipped measurements now, and those of the CPU with the page that has them in
full; links must lead somewhere. KSAUTO_TEST_QUICK=1 leaves out what measures.
"""
import glob
import json
import os
import re
import struct
import subprocess
import sys
import tempfile

SHORTER = [("--budget 2m", "--budget 3s"), ("--random 100", "--random 4")]
MEASURES = re.compile(r"ksauto (calibrate|bench|report|evaluate)\b")  # or needs what these have made
KNOWN = {
    "sh tools/quickstart.sh": "tests/test_newcomer.sh",
    "sh tools/test.sh": ".ci/run",
    "cmake --preset cuda && cmake --build --preset cuda": "tools/test.sh",
    "ctest --preset cuda": "tools/test.sh",
    "ctest --preset gpu": "tools/test.sh",
    "ctest --preset gpu-long": "tools/test.sh",
    "sh tests/sanitize_gpu.sh build/cuda/tests/test_gpu racecheck": "tests/CMakeLists.txt",
}


def blocks(text, language):
    return re.findall(r"^```%s\n(.*?)^```" % language, text, flags=re.S | re.M)


def sessions(block):
    """(command, shown output) of a console block."""
    for part in re.split(r"^\$ ", block, flags=re.M)[1:]:
        command, _, shown = part.partition("\n")
        yield re.sub(r"\s+# .*", "", command), shown


def blotted(output):
    """What stays the same on every machine."""
    output = re.sub(r"^[*>]", " ", output, flags=re.M)
    output = re.sub(r"\b(fused|bmm)\.[a-z.]+", "KERNEL", output)
    output = re.sub(r"^(on |source +\w[\w-]* )\S.*$", r"\1DEVICE", output, flags=re.M)
    output = re.sub(r"^(source +)\w[\w-]* DEVICE$", r"\1DEVICE", output, flags=re.M)
    output = re.sub(r"\b(fused|bmm)(:| +\d)", r"FAMILY\2", output)
    output = re.sub(r"\((\d+,)+\d+\)( \((\d+,)+\d+\))*", "CHAIN", output)
    output = re.sub(r"\d[\d.]*( (ns|us|ms|s|%))?(?![\w])", "#", output)
    return {re.sub(r"\s+", " ", line).strip() for line in output.splitlines() if line.strip()}


def write_npy(path, count):
    header = "{'descr': '<f4', 'fortran_order': False, 'shape': (%d,), }" % count
    with open(path, "wb") as out:
        out.write(b"\x93NUMPY\x01\x00v\x00" + header.ljust(117).encode() + b"\n" + struct.pack("<f", 0.5) * count)


def furnish(folder, ksauto):
    """The files that the README's commands name."""
    os.mkdir(os.path.join(folder, "tools"))
    with open(os.path.join(folder, "tools", "panel-cpu.csv"), "w", encoding="utf-8") as out:
        out.write("a,b,c,d,batch,dtype,layout\n1,8,8,1,4,f32,first\n2,8,8,3,16,f32,last\n")
    with open(os.path.join(folder, "tools", "panel-chains.txt"), "w", encoding="utf-8") as out:
        out.write("f32 first 8 4,4,4,1 1,4,4,4\n")
    write_npy(os.path.join(folder, "X.npy"), 2 * 6 * 64)
    write_npy(os.path.join(folder, "K.npy"), 6 * 64 * 64)
    row = "1,2,3,4,5,f32,first,Some CPU,fused.cpu,fused,1.5e-05,,9,KS_OK\n"
    header = "a,b,c,d,batch,dtype,layout,device,kernel,family,time_s,energy_j,samples,status\n"
    subprocess.run([ksauto, "--db", "OTHER.db", "db", "import", "-"], input=header + row, text=True, cwd=folder, check=True,
                   capture_output=True)


def run_console(readme, ksauto, folder, quick):
    failures = count = 0
    environment = dict(os.environ, HOME=folder, XDG_DATA_HOME=os.path.join(folder, "data"), NO_COLOR="1",
                       PATH=os.path.dirname(ksauto) + ":" + os.environ["PATH"])
    environment.pop("KSAUTO_DB", None)
    for block in blocks(readme, "console"):
        for command, shown in sessions(block):
            short = command
            for long_form, short_form in SHORTER:
                short = short.replace(long_form, short_form)
            if quick and (MEASURES.search(command) or "db info" in command):
                continue
            count += 1
            done = subprocess.run(["sh", "-ec", short], cwd=folder, env=environment, capture_output=True, text=True)
            # Of three seconds of calibration too little may be known to evaluate, or to draw; saying so is right.
            too_little = re.search("too few|too little", done.stderr) and MEASURES.search(command)
            if done.returncode != 0 and not too_little:
                print("FAILED: %s\n%s%s" % (short, done.stdout, done.stderr))
                failures += 1
            missing = blotted(shown) - blotted(done.stdout)
            extra = blotted(done.stdout) - blotted(shown) if shown.strip() else set()
            if missing or extra:
                print("FAILED: '%s' prints other lines than the README shows\n  shown and not printed: %s\n"
                      "  printed and not shown: %s" % (command, sorted(missing), sorted(extra)))
                failures += 1
    if not count:
        print("FAILED: the README shows no command")
    return failures + (not count)


def check_known(page, source):
    failures = 0
    for block in blocks(page, "sh"):
        for line in block.splitlines():
            command = re.sub(r"\s+# .*", "", line).strip()
            if command and not os.path.exists(os.path.join(source, KNOWN.get(command, "none"))):
                print("FAILED: no test runs '%s'" % command)
                failures += 1
    return failures


def anchors(page):
    """Of its headings, as they are made on the usual sites."""
    return {re.sub(r"[^\w -]", "", heading).replace(" ", "-").lower() for heading in re.findall(r"^#+ (.*)", page, flags=re.M)}


def check_links(path, page):
    failures = 0
    for link in re.findall(r"\[[^\]]*\]\(([^)]*)\)", page):
        place, _, anchor = link.partition("#")
        target = os.path.join(os.path.dirname(path), place) if place else path
        if place.startswith("http"):
            continue
        if not os.path.exists(target):
            print("FAILED: %s leads to %s, which is not there" % (path, link))
            failures += 1
        elif anchor:
            with open(target, encoding="utf-8") as file:
                if anchor not in anchors(file.read()):
                    print("FAILED: %s leads to %s, where no such heading is" % (path, link))
                    failures += 1
    return failures


def check_policies(readme, tools):
    """The front page's rows of the CPU are what the page of the command shows in full."""
    table = re.search(r"^    (f32 +first.*?)\n\n", tools, flags=re.S | re.M).group(1)
    means = [re.search(r"(?:advisor|always fused|always bmm|ratio>=\S*) +([\d.]+) %", line).group(1) for line in table.splitlines()]
    said = re.findall(r"^\| Xeon, batch-(?:first|last) \|(.*)\|$", readme, flags=re.M)
    if [re.findall(r"[\d.]+", row) for row in said] == [means[:4], means[4:]]:
        return 0
    print("FAILED: the README's rows of the Xeon are not those of tools/README.md: %s" % means)
    return 1


def check_picture(readme, source, ksauto, folder):
    sentence = re.search(r"(\d+) problems on an H100 \(F16, batch-first\).*?Always-fused loses ([\d.]+) % on average,\s+"
                         r"always-bmm ([\d.]+) %,\s+the best threshold on the published ratio ([\d.]+) %,\s+the advisor ([\d.]+) % \("
                         r"([\d.]+) %\s+by\s+a\s+build\s+without\s+CUDA",
                         readme, flags=re.S)
    if not sentence:
        print("FAILED: the README no longer says what its picture shows")
        return 1
    table = os.path.join(folder, "h100.csv")
    with open(os.path.join(source, "db", "seeds", "nvidia-h100-80gb-hbm3.csv"), encoding="utf-8") as rows, \
            open(table, "w", encoding="utf-8") as out:
        out.writelines(row for i, row in enumerate(rows) if i == 0 or ",f16,first," in row)
    done = subprocess.run([ksauto, "--db", os.path.join(folder, "no.db"), "evaluate", "--cv", "5", "--csv", table, "--json"],
                          capture_output=True, text=True, check=True)
    config = json.loads(done.stdout)["configs"][0]
    now = [config["problems"], *(100 * config["static"][name]["mean"] for name in ("always_fused", "always_bmm", "ratio")),
           100 * config["regret"]["mean"]]
    # Which of the two figures of the advisor is this build's: of one that knows what the kernels do, or of one that does not.
    told = subprocess.run([ksauto, "--db", os.path.join(folder, "no.db"), "advise", "1,64,64,1", "--batch", "128", "--device",
                           "NVIDIA H100 80GB HBM3", "--explain", "--json"], capture_output=True, text=True, check=True)
    *policies, own, generic = map(float, sentence.groups())
    failures = 0
    for said, found in zip([*policies, own if '"own":\ttrue' in told.stdout else generic], now):
        # The advisor's figure depends on the last bits of the fit, too.
        if abs(said - found) > max(0.6, 0.4 * said if found is now[-1] else 0):
            print("FAILED: of its picture the README says %g, and it is %.3g now" % (said, found))
            failures += 1
    return failures


def main():
    source, ksauto = map(os.path.abspath, sys.argv[1:3])
    quick = bool(os.environ.get("KSAUTO_TEST_QUICK"))
    pages = {}
    for path in ["README.md", *glob.glob("*/README.md", root_dir=source), "tools/python/README.md"]:
        with open(os.path.join(source, path), encoding="utf-8") as file:
            pages[path] = file.read()
    readme, tools = pages["README.md"], pages["tools/README.md"]
    with tempfile.TemporaryDirectory() as folder:
        furnish(folder, ksauto)
        failures = run_console(readme + tools, ksauto, folder, quick) + check_policies(readme, tools)
        if not quick:
            failures += check_picture(readme, source, ksauto, folder)
    for path, page in pages.items():
        failures += check_known(page, source) + check_links(os.path.join(source, path), page)
        if "```console" in page and page not in (readme, tools):
            print("FAILED: nobody runs the commands that %s shows" % path)
            failures += 1
    if not failures:
        print("readme: its commands run, and print what it shows; the links of %d pages lead somewhere" % len(pages))
    sys.exit(failures > 0)


main()
