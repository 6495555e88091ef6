"use strict";

const ACCENT = "#d9822b", SECOND = "#2a6f97", INK = "#1f2933";

function make(tag, text, parent) {
  const found = document.createElement(tag);
  if (text !== undefined) found.textContent = text;
  if (parent) parent.append(found);
  return found;
}

function box(title, parent) {
  const found = make("div", undefined, parent);
  make("h2", title, found);
  return found;
}

function show(name) {
  for (const section of document.querySelectorAll("section")) section.hidden = section.id !== name;
  for (const button of document.querySelectorAll("nav button"))
    button.toggleAttribute("aria-current", button.dataset.panel === name);
  window.dispatchEvent(new Event("resize"));
}

async function valueOf(field) {
  if (field.type === "checkbox") return field.checked;
  if (field.type === "range" || field.type === "number")
    return field.value === "" ? field.value : Number(field.value);
  if (field.type !== "file") return field.value;
  if (!field.files.length) return null;
  const bytes = new Uint8Array(await field.files[0].arrayBuffer());
  let text = "";
  for (let i = 0; i < bytes.length; i += 32768) text += String.fromCharCode(...bytes.subarray(i, i + 32768));
  return {name: field.files[0].name, base64: btoa(text)};
}

async function ask(section) {
  const form = section.querySelector("form"), button = form.querySelector("button");
  const error = section.querySelector(".error"), result = section.querySelector(".result");
  const asked = {};
  button.disabled = true;
  try {
    for (const field of form.elements) if (field.name) asked[field.name] = await valueOf(field);
    const answer = await fetch(section.id, {method: "POST", body: JSON.stringify(asked)});
    const found = await answer.json();
    error.textContent = found.error || "";
    result.replaceChildren();
    if (!found.error) DRAW[section.id](found, result, asked);
  } catch (problem) {
    error.textContent = "The server does not answer. Is keras-struct demo still running?";
  }
  button.disabled = false;
}

// One square of a map for each pair, darker the more probable; a path over it.
function heatMap(map, path, parent, names) {
  const rows = map.length, columns = map[0].length, left = names ? 22 : 4;
  const size = Math.max(1, Math.min(22, Math.floor(620 / Math.max(rows, columns))));
  const canvas = make("canvas", undefined, parent), pen = canvas.getContext("2d");
  canvas.width = left + size * columns + 4;
  canvas.height = left + size * rows + 4;
  pen.fillStyle = "#fff";
  pen.fillRect(0, 0, canvas.width, canvas.height);
  for (let i = 0; i < rows; i++)
    for (let j = 0; j < columns; j++) {
      pen.fillStyle = `rgba(42, 111, 151, ${Math.max(0.03, Math.min(1, map[i][j]))})`;
      pen.fillRect(left + size * j, left + size * i, Math.max(1, size - (size > 4)), Math.max(1, size - (size > 4)));
    }
  if (names) {
    pen.fillStyle = INK;
    pen.font = "13px ui-monospace, monospace";
    pen.textAlign = "center";
    [...names[0]].forEach((x, i) => pen.fillText(x, left / 2, left + size * (i + 0.5) + 5));
    [...names[1]].forEach((x, j) => pen.fillText(x, left + size * (j + 0.5), left - 6));
  }
  pen.strokeStyle = ACCENT;
  pen.lineWidth = 2;
  pen.beginPath();
  for (const [i, j] of path) pen.lineTo(left + size * j, left + size * i);
  pen.stroke();
  return canvas;
}

// Traces of two chains; dragging turns them.
function traces(found, parent) {
  const canvas = make("canvas", undefined, parent);
  canvas.className = "space";
  const points = [...found.first, ...found.second], centre = [0, 1, 2].map(
    k => points.reduce((sum, p) => sum + p[k], 0) / points.length);
  const reach = Math.max(...points.map(p => Math.hypot(...p.map((x, k) => x - centre[k])))) || 1;
  let across = 0.4, down = 0.2;
  function draw() {
    const ratio = window.devicePixelRatio || 1, pen = canvas.getContext("2d");
    canvas.width = canvas.clientWidth * ratio;
    canvas.height = canvas.clientHeight * ratio;
    if (!canvas.width) return;
    const scale = 0.46 * Math.min(canvas.width, canvas.height) / reach;
    const turn = p => {
      const [x, y, z] = p.map((value, k) => value - centre[k]);
      const u = x * Math.cos(across) + z * Math.sin(across), w = z * Math.cos(across) - x * Math.sin(across);
      const v = y * Math.cos(down) - w * Math.sin(down), depth = w * Math.cos(down) + y * Math.sin(down);
      return [canvas.width / 2 + scale * u, canvas.height / 2 + scale * v, depth];
    };
    const lines = [];
    for (const [chain, colour] of [[found.first, SECOND], [found.second, ACCENT]]) {
      const turned = chain.map(turn);
      for (let i = 1; i < turned.length; i++) {
        const gap = Math.hypot(...chain[i].map((x, k) => x - chain[i - 1][k])) > 5;
        if (!gap) lines.push([turned[i - 1], turned[i], colour]);
      }
    }
    lines.sort((a, b) => a[0][2] - b[0][2]);
    pen.lineCap = "round";
    for (const [from, to, colour] of lines) {
      pen.globalAlpha = 0.55 + 0.45 * (from[2] / reach + 1) / 2;
      pen.strokeStyle = colour;
      pen.lineWidth = ratio * (2.5 + from[2] / reach);
      pen.beginPath();
      pen.moveTo(from[0], from[1]);
      pen.lineTo(to[0], to[1]);
      pen.stroke();
    }
  }
  canvas.onpointerdown = event => canvas.setPointerCapture(event.pointerId);
  canvas.onpointermove = event => {
    if (!event.buttons) return;
    across += event.movementX / 120;
    down -= event.movementY / 120;
    draw();
  };
  window.onresize = draw;
  draw();
}

const DRAW = {
  trees(found, result) {
    for (const kind of ["constituency", "dependency"]) {
      const parent = box(`${kind}, entropy ${found[kind + "_entropy"]} nats`, result);
      make("div", undefined, parent).innerHTML = found[kind];
    }
    if (found.left_out) make("p", "Only the first sentence was parsed.", result);
  },
  sequences(found, result, asked) {
    const map = box("probability of each pair, and the best path", result);
    heatMap(found.map, found.path, map, [asked.first.trim(), asked.second.trim()]);
    make("pre", found.best.join("\n"), box(`best alignment; soft maximum ${found.value}`, result));
    const samples = box("samples", result);
    for (const rows of found.samples) make("pre", rows.join("\n"), samples);
  },
  structures(found, result) {
    traces(found, box(`${found.names.join(" and ")}, superposed: drag to turn`, result));
    const list = make("dl", undefined, box("measures", result));
    for (const [name, value] of Object.entries(found.measures)) {
      make("dt", name.replaceAll("_", " "), list);
      make("dd", value === null ? "–" : value, list);
    }
    heatMap(found.map, found.pairs.map(p => p.map(x => x + 0.5)), box("probability of each pair", result));
    make("pre", found.rows.join("\n"), box("alignment", result));
  },
  spaces(found, result) {
    const parent = box(`probability that a word ends, entropy ${found.entropy} nats`, result);
    const canvas = make("canvas", undefined, parent), pen = canvas.getContext("2d"), step = 18;
    canvas.width = step * found.letters.length + 8;
    canvas.height = 120;
    pen.font = "16px ui-monospace, monospace";
    pen.textAlign = "center";
    [...found.letters].forEach((letter, i) => {
      pen.fillStyle = INK;
      pen.fillText(letter, 4 + step * (i + 0.5), 114);
      pen.fillStyle = ACCENT;
      pen.fillRect(4 + step * (i + 1) - 3, 95 - 90 * found.ends[i], 6, 90 * found.ends[i]);
    });
    make("pre", found.best, box("best", result));
    make("pre", found.samples.join("\n"), box("samples", result));
  },
};

for (const button of document.querySelectorAll("nav button")) button.onclick = () => show(button.dataset.panel);
for (const section of document.querySelectorAll("section")) {
  section.querySelector("form").onsubmit = event => {
    event.preventDefault();
    ask(section);
  };
  const slider = section.querySelector("[type=range]");
  if (!slider) continue;
  const say = () => { slider.parentElement.querySelector("output").textContent = slider.value; };
  slider.oninput = say;
  slider.onchange = () => { if (section.querySelector(".result").childElementCount) ask(section); };
  say();
}
show("trees");
