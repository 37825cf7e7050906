#!/bin/sh
# The page of `ksauto report`: made of a shipped device, whole, without network, readable by all and on a phone.
#
#     sh test_report.sh PATH_TO_KSAUTO
#
# Skipped (77) without gnuplot. With chromium the page is laid out at a desktop's and a phone's width; without it that part is
# left out, and a line says so. KSAUTO_SHOTS=DIR keeps the page and its screenshots there to be looked at.
set -u
LC_ALL=C
export LC_ALL

[ $# = 1 ] || { echo "usage: $0 PATH_TO_KSAUTO" >&2; exit 2; }
ksauto=$1
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM
unset KSAUTO_EXPLAIN
export HOME="$work" XDG_DATA_HOME="$work/data" KSAUTO_DB="$work/none.db"
failures=0
fail() {
    failures=$((failures + 1))
    echo "FAILED: $*" >&2
}

# What a machine without gnuplot is told, whether this is one or not.
mkdir "$work/empty"
if PATH=$work/empty "$ksauto" report --out "$work/no" >"$work/out" 2>"$work/err"; then fail "it works without gnuplot"; fi
grep -q 'apt-get install gnuplot-nox' "$work/err" || fail "without gnuplot it does not say what to install"
[ ! -e "$work/no" ] || fail "without gnuplot it made the folder"
if ! command -v gnuplot >/dev/null; then
    echo "report: skipped, no gnuplot here"
    exit 77
fi

device='Intel(R) Xeon(R) Processor (2 threads)'
page=$work/page
"$ksauto" report --out "$page" --device "$device" --dtype f32 --layout last --json >"$work/out" 2>"$work/err" ||
    fail "report: $(cat "$work/err")"
[ ! -s "$work/err" ] || fail "it prints on standard error: $(cat "$work/err")"
[ ! -e "$KSAUTO_DB" ] || fail "it made a store"
for name in map regret times honesty roofline learned; do
    grep -q "\"$name-f32-last\"" "$work/out" || fail "--json does not name $name-f32-last"
    [ "$(head -c 8 "$page/$name-f32-last.png" | od -An -tx1 | tr -d ' \n')" = 89504e470d0a1a0a ] || fail "$name: no PNG"
    grep -q '</svg>' "$page/$name-f32-last.svg" || fail "$name: no SVG"
    (cd "$page" && gnuplot "$name-f32-last.gp") >"$work/log" 2>&1 || fail "$name: its script does not run by itself"
    [ ! -s "$work/log" ] || fail "$name: gnuplot says: $(cat "$work/log")"
done
again=$("$ksauto" report --out "$page" --device "$device" --dtype f32 --layout last 2>&1) || fail "over itself: $again"
case $again in "$page/index.html: 6 pictures of $device"*) ;; *) fail "it says: $again" ;; esac
if "$ksauto" report --out /dev/null/x --device "$device" >"$work/out" 2>"$work/err"; then fail "it writes to /dev/null/x"; fi
grep -q /dev/null/x "$work/err" || fail "it does not name the folder it cannot make"
if "$ksauto" report --out "$work/no" --device "$device" --dtype f64 >"$work/out" 2>"$work/err"; then fail "f64 has no rows"; fi
grep -q 'too little is measured' "$work/err" || fail "it does not say that nothing of f64 is measured"

# Links that somebody else has put where the pictures, or their folder, go. Only root can play somebody else.
if [ "$(id -u)" = 0 ]; then
    mkdir "$work/shared" "$work/victims"
    chmod 1777 "$work/shared"
    echo dear >"$work/victim"
    ln -s "$work/victim" "$work/shared/map-f32-last.svg"
    ln -s "$work/victims" "$work/shared/folder"
    chown -h 65534:65534 "$work/shared/map-f32-last.svg" "$work/shared/folder"
    for out in "$work/shared" "$work/shared/folder" "$work/shared/folder/deep"; do
        if "$ksauto" report --out "$out" --device "$device" --dtype f32 --layout last >"$work/out" 2>"$work/err"; then
            fail "it follows somebody else's link to $out"
        fi
        grep -q "somebody else's link" "$work/err" || fail "$out: it says: $(cat "$work/err")"
    done
    [ "$(cat "$work/victim")" = dear ] || fail "it wrote over somebody's file"
    [ -z "$(ls "$work/victims")" ] || fail "it wrote into somebody's folder: $(ls "$work/victims")"
fi

# Alternative texts, contrast, no network; by the page's own text and the pictures'.
cat >"$work/look.py" <<'END'
import html.parser, os, re, sys
text = open(sys.argv[1], encoding="utf-8").read()
problems = []
class Look(html.parser.HTMLParser):
    void = {"meta", "img", "link", "br"}
    def __init__(self):
        super().__init__()
        self.open, self.images, self.ids, self.links, self.heads = [], 0, set(), [], []
    def handle_starttag(self, tag, attributes):
        a = dict(attributes)
        if tag not in self.void: self.open.append(tag)
        if "id" in a: self.ids.add(a["id"])
        if tag == "a": self.links.append(a["href"])
        if tag == "html" and a.get("lang") != "en": problems.append("no language")
        if tag in ("script", "link", "iframe"): problems.append("holds <%s>" % tag)
        if re.fullmatch("h[1-6]", tag): self.heads.append(int(tag[1]))
        if tag == "img":
            self.images += 1
            if len(a.get("alt", "")) < 60: problems.append("an image without a telling alt text")
            if not a["src"].startswith("data:image/svg+xml;base64,"): problems.append("an image from elsewhere")
    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag: problems.append("</%s> closes nothing" % tag)
look = Look()
look.feed(text)
if look.open: problems.append("not closed: %s" % look.open)
if look.images != 6: problems.append("%d images" % look.images)
for link in look.links:
    if link[0] != "#" or link[1:] not in look.ids: problems.append("link to %s" % link)
for before, after in zip([0] + look.heads, look.heads):
    if after > before + 1: problems.append("heading %d follows %d" % (after, before))
if re.search(r"https?:", re.sub(r"base64,[^\"]*", "", text)): problems.append("names an address of the network")
def light(colour):
    parts = [int(colour[i:i + 2], 16) / 255 for i in (1, 3, 5)]
    parts = [v / 12.92 if v <= 0.03928 else ((v + 0.055) / 1.055) ** 2.4 for v in parts]
    return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]
colours = re.findall(r"[{;]color:(#[0-9a-f]+)", text)
if len(colours) < 5: problems.append("the style's colours were not found")
for colour in colours:
    full = colour if len(colour) == 7 else "#" + "".join(c * 2 for c in colour[1:])
    if 1.05 / (light(full) + 0.05) < 4.5: problems.append("%s on white is too pale" % colour)
def contrast(colour):
    return 1.05 / (light(colour) + 0.05)
def hexadecimal(rgb):
    return "#%02x%02x%02x" % tuple(int(part) for part in re.findall(r"\d+", rgb))

# In a picture text needs 4.5 on white, lines and points 3. What needs less: the grid, which only guides the eye; rings of white
# around points; filled areas, of which the colour scale's pale middle means "a tie" and others have an outline.
RGB = r"rgb\([\d, ]+\)"
def look_at(picture):
    svg = open(picture, encoding="utf-8").read()
    texts = {hexadecimal(c) for c in re.findall(r'stroke="none" fill="(%s)" font-family' % RGB, svg)}
    marks = {hexadecimal(c) for line in svg.splitlines() if "gridline" not in line
             for c in re.findall(r"(?:stroke|color)\s*=\s*[\"'](%s)" % RGB, line)} - {"#ffffff"}
    if not texts or not marks: problems.append("%s: no colours were found" % picture)
    problems.extend("%s: text in %s is too pale" % (picture, c) for c in texts if contrast(c) < 4.5)
    problems.extend("%s: a mark in %s is too pale" % (picture, c) for c in marks if contrast(c) < 3)
    if "<title>Gnuplot" in svg: problems.append("%s has no title of its own" % picture)
    return marks

# As Machado, Oliveira and Fernandes (2009) have people see who lack one kind of cones; on linear light.
KINDS = {"protan": (0.152286, 1.052583, -0.204868, 0.114503, 0.786281, 0.099216, -0.003882, -0.048116, 1.051998),
         "deutan": (0.367322, 0.860646, -0.227968, 0.280085, 0.672501, 0.047413, -0.011820, 0.042940, 0.968881),
         "tritan": (1.255528, -0.076749, -0.178779, -0.078411, 0.930809, 0.147602, 0.004733, 0.691367, 0.303900)}
def lab(colour, kind):
    linear = [((v / 255 + 0.055) / 1.055) ** 2.4 if v > 10 else v / 255 / 12.92 for v in bytes.fromhex(colour[1:])]
    seen = [min(1, max(0, sum(KINDS[kind][3 * i + j] * linear[j] for j in range(3)))) for i in range(3)]
    x, y, z = (sum(w * v for w, v in zip(row, seen)) ** (1 / 3) for row in (
        (0.4339, 0.3762, 0.1899), (0.2126, 0.7152, 0.0722), (0.0178, 0.1095, 0.8727)))
    return 116 * y - 16, 500 * (x - y), 200 * (y - z)
marks = set.union(*(look_at(picture) for picture in sys.argv[2:]))
fused, bmm = "#005b96", "#b04a00" # the two that nothing but colour tells apart; lines have dashes
if not {fused, bmm} <= marks: problems.append("fused and bmm have other colours than those that are tested: %s" % marks)
for kind in KINDS:
    apart = sum((p - q) ** 2 for p, q in zip(lab(fused, kind), lab(bmm, kind))) ** 0.5
    if apart < 40: problems.append("fused and bmm look alike to the %s: %.0f" % (kind, apart))
script = open(os.path.join(os.path.dirname(sys.argv[1]), "regret-f32-last.gp"), encoding="utf-8").read()
dashes = re.findall(r"fsteps lw [\d.]+ (?:dt '([^']*)' )?lc", script)
if len(dashes) != 8 or len(set(dashes)) != 4: problems.append("the policies' lines share dashes: %s" % dashes)
print("\n".join(problems))
END
if command -v python3 >/dev/null; then
    found=$(python3 "$work/look.py" "$page/index.html" "$page"/*.svg) || found="the check did not run: $found"
    [ -z "$found" ] || fail "the page: $found"
else
    echo "report: no python3 here, so the page's text is not checked"
fi

# Laid out: nothing wider than the window, every picture drawn. The page is looked at from a frame of the width wanted.
browser=$(command -v chromium || command -v chromium-browser || command -v google-chrome || true)
if [ -n "$browser" ]; then
    for width in 1200 390; do
        cat >"$page/frame.html" <<END
<body style="margin:0"><iframe id="f" src="index.html" width="$width" height="2000" style="border:0"></iframe><script>
document.getElementById("f").onload = function () {
    var page = this.contentDocument, images = Array.from(page.images);
    document.title = "width " + page.documentElement.scrollWidth + " drawn " +
        images.filter(i => i.complete && i.naturalWidth > 100).length + " font " +
        Math.min(...images.map(i => 16 * i.clientWidth / i.naturalWidth)).toFixed(1);
};
</script></body>
END
        set -- --headless --no-sandbox --disable-gpu --hide-scrollbars --allow-file-access-from-files \
            --user-data-dir="$work/chromium" --virtual-time-budget=20000
        title=$("$browser" "$@" --dump-dom "file://$page/frame.html" 2>/dev/null | sed -n 's/.*<title>\(.*\)<\/title>.*/\1/p')
        case $title in
        "width $width drawn 6 "*) echo "report: at $width pixels: $title" ;;
        *) fail "at $width pixels the browser says '$title'" ;;
        esac
        "$browser" "$@" --window-size=$((width > 500 ? width : 500)),2000 --screenshot="$page/shot-$width.png" \
            "file://$page/frame.html" >/dev/null 2>&1
        [ -s "$page/shot-$width.png" ] || fail "no screenshot at $width pixels"
    done
    [ -z "${KSAUTO_SHOTS:-}" ] || cp -r "$page" "$KSAUTO_SHOTS"
else
    echo "report: no chromium here, so the page is not laid out"
fi

[ $failures -eq 0 ] && echo "report: page and pictures are as they should be"
exit $((failures > 0))
