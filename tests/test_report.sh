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

# Alternative texts, contrast, no network; by the page's own text.
cat >"$work/look.py" <<'END'
import html.parser, re, sys
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
print("\n".join(problems))
END
if command -v python3 >/dev/null; then
    found=$(python3 "$work/look.py" "$page/index.html") || found="the check did not run: $found"
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
