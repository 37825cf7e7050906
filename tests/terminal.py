"""What people see on a terminal: results that fit 80 columns, a line that is redrawn in place, a Ctrl-C that loses nothing.

    python3 terminal.py SOURCE_DIR PATH_TO_KSAUTO

Every command runs on a pseudo-terminal of 80 columns, on a store made of a device that ships. Only lines that name a file may be
longer. KSAUTO_TEST_QUICK=1 leaves out what measures.
"""
import fcntl
import json
import os
import pty
import re
import struct
import subprocess
import sys
import tempfile
import termios

FAILURES = []


def check(so, what):
    if not so:
        FAILURES.append(what)
        print("FAILED: " + what)


def run(arguments, folder, columns=80, press_when=None):
    """(what was drawn, exit code); Ctrl-C is pressed once the pattern is there."""
    child, terminal = pty.fork()
    if child == 0:
        os.chdir(folder)
        environment = dict(os.environ, TERM="xterm", HOME=folder, XDG_DATA_HOME=folder + "/data")
        environment.pop("KSAUTO_DB", None)
        environment.pop("NO_COLOR", None)
        fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        os.execve(arguments[0], arguments, environment)
    seen = b""
    while True:
        try:
            more = os.read(terminal, 65536)
        except OSError:  # how Linux says that the other end is closed
            break
        if not more:
            break
        seen += more
        if press_when and re.search(press_when, seen):
            os.write(terminal, b"\x03")
            press_when = None
    _, status = os.waitpid(child, 0)
    os.close(terminal)
    return seen.decode(), os.waitstatus_to_exitcode(status)


def lines_of(seen):
    """As they stand on the screen at some time: a carriage return begins one afresh."""
    plain = re.sub(r"\x1b\[[0-9;]*[mK]", "", seen)
    return [line for row in plain.split("\n") for line in row.split("\r")]


def tables_fit(ksauto, source, folder):
    seed = os.path.join(source, "db", "seeds", "intel-xeon-emerald-rapids-2-threads")
    device = json.loads(subprocess.run([ksauto, "devices", "--json"], capture_output=True, text=True, check=True).stdout)
    device = next(entry["name"] for entry in device["seeds"] if "Xeon" in entry["name"])
    panel = os.path.join(folder, "panel.csv")
    with open(panel, "w", encoding="utf-8") as out:
        out.write("a,b,c,d,batch,dtype,layout\n1,192,48,2,16,f32,first\n1,192,48,2,16,f32,last\n2,8,8,3,16,f32,last\n"
                  "123456,1,1,12,1,f32,first\n1,1,1,1234567,1,bf16,last\n16,16,16,128,4,f16,first\n")
    table = os.path.join(folder, "odd.csv")
    with open(table, "w", encoding="utf-8") as out:
        out.write("a,b,c,d,batch,dtype,layout,device,kernel,family,time_s,samples\n")
        for b in 8, 16, 32, 64, 128, 256, 512:
            for batch in 100, 1000, 100000:
                out.write("1,%d,64,4,%d,f32,first,T,x.kernel,fused,%d.0e-6,5\n" % (b, batch, 1000 + b))
                out.write("1,%d,64,4,%d,f32,first,T,y.bmm,bmm,%d.0e-6,5\n" % (b, batch, 1100 + batch / 1000))
        out.write("1024,16384,16384,128,100000,f32,first,T,y.bmm,bmm,1e-9,5\n")
    measuring = [["bench", "--panel", panel], ["bench", "--random", "3", "--dtype", "all"], ["bench", "--dispatch"],
                 ["calibrate", "--budget", "1ms", "--dtype", "f32,f16"]]
    results = [
        ["db", "import", "--seed", seed], ["devices"], ["db", "info"], ["db", "path"], ["db", "check"],
        ["advise", "1,192,48,2", "--batch", "25088"], ["advise", "1,192,48,2", "--batch", "25088", "--explain"],
        ["advise", "123,1024,1024,128", "--batch", "1234567", "--explain", "--dtype", "bf16", "--layout", "last",
         "--device", "NVIDIA H100"],
        ["advise", "--search", "1024x4096", "--params", "10%"],
        ["advise", "--search", "1024x1024", "--params", "5%", "--factors", "4", "--device", "NVIDIA H200", "--top", "5"],
        ["calibrate", "--dry-run", "--dtype", "all", "--target-regret", "1%"], ["fit", "--device", device],
        ["evaluate", "--csv", seed + ".csv", "--cv", "2", "--learners"], ["evaluate", "--csv", table, "--cv", "2"],
        ["evaluate", "--csv", table, "--replay", "0.1,0.2,1e6", "--draws", "2"],
        ["pin", "--panel", panel, "--out", "pinned.csv"], ["db", "export", "--out", "all.csv"]]
    for arguments in results + (measuring if not os.environ.get("KSAUTO_TEST_QUICK") else []):
        command = "ksauto " + " ".join(arguments)
        seen, code = run([ksauto, *arguments], folder)
        check(code == 0, "%s: exit code %d\n%s" % (command, code, seen))
        for line in lines_of(seen):
            check(len(line) <= 80 or folder in line, "%s: a line of %d columns: %s" % (command, len(line), line))
    seen, code = run([ksauto, "advise", "1,2,3,4", "--bacth", "5"], folder, 50)
    check(code == 2 and "\x1b[1;31m" in seen and "did you mean '--batch'?" in " ".join(seen.split()), "a typing error: " + seen)
    check(max(map(len, lines_of(seen))) <= 50 and "--objective," in seen.split(), "messages are not broken between words: " + seen)
    return len(results)


def calibrate_is_watched(ksauto, folder):
    """Ctrl-C in the middle: what was drawn, what is said, and what is kept."""
    for columns in 80, 50:
        store = os.path.join(folder, "watched-%d.db" % columns)
        seen, code = run([ksauto, "--db", store, "calibrate", "--budget", "10m"], folder, columns, rb"measured [3-9]\d* ")
        check(code == 1, "calibrate, interrupted: exit code %d\n%s" % (code, seen))
        check("Ctrl-C stops without losing any" in seen, "calibrate does not say beforehand what Ctrl-C does: " + seen)
        drawn = [line for line in seen.replace("\n", "\r").split("\r") if line.startswith("[")]
        check(len(drawn) > 1, "calibrate draws no line: " + seen)
        for line in drawn:
            check(len(line.split("^C")[0]) < columns, "on %d columns a line of %d: %s" % (columns, len(line), line))
            check(re.match(r"\[[#.]{10}\] measured \d+", line), "the line is not as it should be: " + line)
        check(re.search(r"\r +\r(\x1b\S*)?ksauto: (\x1b\S*)?interrupted", seen), "the line is not wiped: " + repr(seen))
        seen = " ".join(seen.split())
        said = re.search(r"interrupted; the (\d+) problems measured in this run are kept in (\S+),", seen)
        check(said and said.group(2) == store, "an interrupted calibrate does not say what is kept and where: " + seen)
        check("the same command goes on" in seen and "ksauto fit" in seen, "it does not say how to go on: " + seen)
        check(subprocess.run([ksauto, "--db", store, "db", "check"], capture_output=True).returncode == 0, "the store is bad")
        plan = subprocess.run([ksauto, "--db", store, "calibrate", "--dry-run", "--json"], capture_output=True, text=True)
        kept = sum(config["stored"] for config in json.loads(plan.stdout)["configs"])
        check(said and kept >= int(said.group(1)), "%d problems are said to be kept, and %d are" % (int(said.group(1)), kept))


def main():
    source, ksauto = map(os.path.abspath, sys.argv[1:3])
    try:
        for end in pty.openpty():
            os.close(end)
    except OSError as error:
        print("terminal: skipped, no pseudo-terminal here: %s" % error)
        sys.exit(77)
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        count = tables_fit(ksauto, source, folder)
        if not os.environ.get("KSAUTO_TEST_QUICK"):
            calibrate_is_watched(ksauto, folder)
    if not FAILURES:
        print("terminal: the results of %d commands and more fit, and Ctrl-C is heard" % count)
    sys.exit(len(FAILURES) > 0)


main()
