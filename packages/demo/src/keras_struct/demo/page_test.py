"""The page is served to this machine alone, and works when it is clicked through in Chromium."""

import http.client
import json
import re
import shutil
import subprocess
import threading

import keras
import pytest

from keras_struct.ops.testing import EVERY_CASE

pytestmark = pytest.mark.skipif(
    keras.backend.backend() != "torch", reason="the page is the same on every backend"
)
if keras.backend.backend() == "torch":
    from keras_struct.demo import server as page
    from keras_struct.demo.command_line import main
    from keras_struct.demo.panels_test import helix

CHROMIUM = shutil.which("chromium")
CLICKS = """<!doctype html><pre id="seen"></pre>
<iframe src="/" style="width: 390px; height: 900px"></iframe><script>
const wait = milliseconds => new Promise(done => setTimeout(done, milliseconds));
const frame = document.querySelector("iframe"), seen = {};
async function click(name, fill) {
  const inside = frame.contentDocument, section = inside.getElementById(name);
  inside.querySelector(`[data-panel=${name}]`).click();
  if (fill) fill(section);
  const button = section.querySelector("form button");
  button.click();
  do await wait(50); while (button.disabled);
  return {
    error: section.querySelector(".error").textContent,
    boxes: section.querySelector(".result").childElementCount,
    text: section.querySelector(".result").textContent,
    visible: !section.hidden && inside.querySelectorAll("section:not([hidden])").length === 1,
    wide: inside.documentElement.scrollWidth > 391,
  };
}
frame.onload = async () => {
  for (const name of ["sequences", "spaces"]) seen[name] = await click(name);
  const set = (query, value) => section => { section.querySelector(query).value = value; };
  seen.slider = await click("spaces", set("[type=range]", 0));
  seen.empty = await click("trees", set("input", ""));
  seen.trees = await click("trees", set("input", "We saw it."));
  seen.none = await click("structures");
  seen.structures = await click("structures", section => {
    const bytes = Uint8Array.from(atob(HELIX.base64), x => x.charCodeAt(0));
    for (const field of section.querySelectorAll("[type=file]")) {
      const files = new frame.contentWindow.DataTransfer();
      files.items.add(new frame.contentWindow.File([bytes], HELIX.name));
      field.files = files.files;
    }
  });
  document.getElementById("seen").textContent = JSON.stringify(seen);
};
</script>"""


@pytest.fixture
def served(monkeypatch):
    class Handler(page.Handler):
        def do_GET(self):
            if self.path != "/_clicks":
                return super().do_GET()
            self._send(200, "text/html", CLICKS.replace("HELIX", json.dumps(helix())).encode())

    monkeypatch.setattr(page, "Handler", Handler)
    with page.make_server(0) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def request(server, method, path, body=None, **headers):
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port)
    connection.request(method, path, body, headers)
    answer = connection.getresponse()
    return answer.status, answer.read().decode()


def test_requests(served):
    status, text = request(served, "GET", "/")
    assert status == 200 and all(f'id="{name[1:]}"' in text for name in page.ANSWERS)
    for path in page.PAGES:
        assert "http" not in request(served, "GET", path)[1].lower().replace("http-equiv", "")
    asked = json.dumps({"first": "ab", "second": "ab"})
    status, text = request(served, "POST", "/sequences", asked)
    assert status == 200 and json.loads(text)["best"] == ["ab", "ab"]
    for body in ("", "[1]", "{", '{"nothing": 1}', '{"first": "", "second": "a"}'):
        status, text = request(served, "POST", "/sequences", body)
        assert status == 400 and "Traceback" not in text and json.loads(text)["error"]
    assert request(served, "GET", "/../server.py")[0] == 404
    assert request(served, "POST", "/", "{}")[0] == 404
    assert request(served, "POST", "/sequences", asked, Host="elsewhere.example:80")[0] == 404


def test_a_port_that_is_taken_is_told(served, capsys):
    assert main(["demo", "--no-browser", "--port", str(served.server_port)]) == 2
    assert f"port={served.server_port}" in capsys.readouterr().err


@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
@pytest.mark.skipif(not EVERY_CASE, reason="in make test-every")
def test_clicking_through(served, tmp_path):
    command = [str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"]
    command += [f"--user-data-dir={tmp_path}", "--enable-logging=stderr"]
    command += ["--virtual-time-budget=600000", f"http://127.0.0.1:{served.server_port}/_clicks"]
    child = subprocess.run(command, capture_output=True, text=True, timeout=300)
    found = re.search(r'<pre id="seen">(\{.*?\})</pre>', child.stdout, re.DOTALL)
    assert found, child.stderr[-2000:]
    seen = json.loads(found[1].replace("&gt;", ">").replace("&lt;", "<").replace("&amp;", "&"))
    errors = re.findall(r"CONSOLE.*", child.stderr)
    # A refusal is a response of status 400, which Chromium logs.
    assert all("status of 400" in line for line in errors), errors
    assert all(x["visible"] and not x["wide"] for x in seen.values()), seen
    for name, boxes in (("sequences", 3), ("spaces", 3), ("trees", 2), ("structures", 4)):
        assert seen[name]["error"] == "" and seen[name]["boxes"] == boxes, (name, seen[name])
    assert "the items are now in order" in seen["slider"]["text"]
    assert "entropy 0 nats" in seen["slider"]["text"]
    assert "some text" in seen["empty"]["error"] and seen["empty"]["boxes"] == 0
    assert "structure file" in seen["none"]["error"]
    assert "tm score first1" in seen["structures"]["text"]
