"""Follows the links within the built site, and looks at each page in headless Chromium.

    python docs/look.py build/docs

A page must load without an error on the console, show all of its pictures, and not be wider than
the screen of a phone. Without Chromium nothing is looked at, which is said.
"""

import functools
import html.parser
import http.server
import json
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import urllib.parse
from pathlib import Path

PHONE = 390
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
LEFT_OUT = {"genindex.html", "search.html", "py-modindex.html"}
SECONDS = 300
HARNESS = """<!doctype html><pre id="found"></pre><script>
async function look(page) {
  const frame = document.createElement("iframe");
  frame.style = "width: WIDTHpx; height: 800px; border: 0";
  frame.src = page;
  const loaded = new Promise(done => { frame.onload = done; });
  document.body.append(frame);
  await loaded;
  await new Promise(done => setTimeout(done, 100));
  const inside = frame.contentDocument, problems = [];
  if (!inside.querySelector("h1")) problems.push("no heading");
  for (const picture of inside.images)
    if (!picture.complete || !picture.naturalWidth) problems.push("no picture " + picture.src);
  const scrolls = x => /auto|scroll/.test(frame.contentWindow.getComputedStyle(x).overflowX);
  const within = x => x.tagName === "ARTICLE" ? false : scrolls(x) || within(x.parentElement);
  const wide = [...inside.querySelectorAll("article *")].find(
    x => x.getBoundingClientRect().right > WIDTH + 1 && !within(x));
  if (wide) problems.push("wider than a phone: " + wide.outerHTML.slice(0, 120));
  frame.remove();
  return problems;
}
(async () => {
  const found = {};
  for (const page of PAGES) found[page] = await look(page);
  document.getElementById("found").textContent = JSON.stringify(found);
})();
</script>"""


class Links(html.parser.HTMLParser):
    """What a page links to, and what in it can be linked to."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.targets: list[str] = []
        self.anchors = {""}
        self.feed(page.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        self.anchors |= {found[name] for name in ("id", "name") if found.get(name)}
        self.targets += [found[name] for name in ("href", "src") if found.get(name)]


def broken_links(site: Path) -> list[str]:
    """Links within the site to files or anchors that do not exist, a line each."""
    pages = {path: Links(path) for path in sorted(site.rglob("*.html"))}
    wrong = []
    for page, links in pages.items():
        for target in links.targets:
            parts = urllib.parse.urlsplit(target)
            if parts.scheme or parts.netloc:
                continue
            place = page.parent / urllib.parse.unquote(parts.path) if parts.path else page
            place = place.resolve()
            anchors = pages[place].anchors if place in pages else {"", parts.fragment}
            if not place.exists() or urllib.parse.unquote(parts.fragment) not in anchors:
                wrong.append(f"{page.relative_to(site)}: a link to nothing, {target}")
    return wrong


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments):
        pass


def look(site: Path, browser: str) -> list[str]:
    """What is wrong, a line each."""
    pages = [path.relative_to(site).as_posix() for path in sorted(site.rglob("*.html"))]
    pages = [page for page in pages if page not in LEFT_OUT and not page.startswith("_")]
    harness = site / "_look.html"
    text = HARNESS.replace("PAGES", json.dumps(pages)).replace("WIDTH", str(PHONE))
    harness.write_text(text, encoding="utf-8")
    handler = functools.partial(Quiet, directory=str(site))
    with (
        http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server,
        tempfile.TemporaryDirectory() as profile,
    ):
        threading.Thread(target=server.serve_forever, daemon=True).start()
        command = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"]
        command += [f"--user-data-dir={profile}", "--enable-logging=stderr"]
        command += [f"--virtual-time-budget={SECONDS * 1000}"]
        command += [f"http://127.0.0.1:{server.server_port}/{harness.name}"]
        child = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS)
        server.shutdown()
    harness.unlink()
    answer = re.search(r'<pre id="found">(\{.*?\})</pre>', child.stdout, re.DOTALL)
    if answer is None:
        return [f"Chromium gave no answer: {child.stderr[-500:]}"]
    found = json.loads(
        answer.group(1).replace("&gt;", ">").replace("&lt;", "<").replace("&amp;", "&")
    )
    wrong = [f"{page}: {problem}" for page, problems in found.items() for problem in problems]
    wrong += [f"not looked at: {page}" for page in pages if page not in found]
    wrong += re.findall(r"CONSOLE.*", child.stderr)
    if not wrong:
        print(f"{len(pages)} pages, {PHONE} pixels wide: no error, all pictures, nothing cut off")
    return wrong


def main() -> int:
    site = Path(sys.argv[1]).resolve()
    wrong = broken_links(site)
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        print(f"Not looked at: none of {', '.join(BROWSERS)} is installed.")
    else:
        wrong += look(site, browser)
    print("\n".join(wrong), end="\n" if wrong else "")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
