"use strict";
// The numbers come from the plan; this file only draws them. Names reach the page as text, never
// as HTML.
const doc = JSON.parse(document.getElementById("data").textContent);
const SVG = "http://www.w3.org/2000/svg";
const state = { point: doc.chosen, layer: 0 };
const $ = (id) => document.getElementById(id);

// ---- elements, scales and numbers ----

function fill(node, attributes, children) {
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  node.append(...children.filter((child) => child !== null));
  return node;
}
const make = (tag, attributes, ...children) => fill(document.createElement(tag), attributes, children);
const draw = (tag, attributes, ...children) => fill(document.createElementNS(SVG, tag), attributes, children);
const text = (x, y, words, attributes = {}) => draw("text", { x, y, ...attributes }, words);
const line = (x1, y1, x2, y2, kind) => draw("line", { x1, y1, x2, y2, class: kind });

function canvas(box, height, label) {
  const width = Math.max(240, box.clientWidth);
  const svg = draw("svg", { viewBox: `0 0 ${width} ${height}`, height, role: "img", "aria-label": label });
  box.replaceChildren(svg);
  return [svg, width];
}

const linear = ([a, b], [c, d]) => (x) => c + ((x - a) / (b - a || 1)) * (d - c);
const logarithmic = ([a, b], range) => {
  const scale = linear([Math.log10(a), Math.log10(b)], range);
  return (x) => scale(Math.log10(x));
};

function ticks(low, high, wanted) {
  const raw = (high - low) / wanted || 1;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map((m) => m * power).find((s) => s >= raw);
  const found = [];
  for (let i = Math.ceil(low / step); i * step <= high; i += 1) found.push(i * step);
  return found;
}

function decades(low, high, most) {
  const found = [];
  for (let e = Math.ceil(Math.log10(low)); e <= Math.log10(high); e += 1) found.push(10 ** e);
  const every = Math.ceil(found.length / most);
  return found.filter((_, i) => i % every === 0);
}

const SECONDS = [[1, "s"], [1e-3, "ms"], [1e-6, "µs"], [1e-9, "ns"]];
const DECIMAL = [[1e12, "T"], [1e9, "G"], [1e6, "M"], [1e3, "k"], [1, ""]];
const unitOf = (units, value) => units.find(([size]) => value >= size) ?? units.at(-1);
const digits = (value) => String(Number(value.toPrecision(3)));
function costUnit(most) {
  if (!doc.points.length) return [0.01, "%"]; // an old plan knows shares only
  if (doc.unit === "seconds") return unitOf(SECONDS, most);
  const [size, prefix] = unitOf(DECIMAL, most);
  return [size, `${prefix}B`];
}
function cost(value) {
  const [size, name] = costUnit(Math.abs(value));
  return value === null ? "not known" : `${digits(value / size)} ${name}`;
}
function dropWords(drop) {
  if (drop === null) return "not known";
  const { factor, suffix } = doc.dropUnit;
  const small = drop !== 0 && Math.abs(drop) < 1e-6;
  return small ? `<${digits(1e-6 * factor)}${suffix}` : `${digits(factor * drop)}${suffix}`;
}
const prefixed = (value, unit) => {
  const [size, prefix] = unitOf(DECIMAL, value);
  return `${digits(value / size)} ${prefix}${unit}`;
};

// ---- what is selected ----

const chosenFormats = () => doc.layers.map((layer) => layer.format);
const current = () => (state.point < 0 ? chosenFormats() : doc.points[state.point].formats);
const format = (k) => doc.formats[k];
const float32 = Math.max(0, doc.formats.findIndex((f) => f.name === "fp32"));

function conversionsOf(formats) {
  const found = new Map();
  for (const edge of doc.conversions) {
    const price = edge.cost[formats[edge.source]][formats[edge.target]];
    if (price > 0) found.set(`${edge.source}-${edge.target}`, { ...edge, price });
  }
  return found;
}

function select(point) {
  state.point = point;
  const at = doc.slider.indexOf(point);
  if (at >= 0) $("slider").value = String(at);
  redraw();
}

function inspect(layer) {
  state.layer = layer;
  $("layer").value = String(layer);
  redraw();
}

// ---- the sentence, the slider, the legend ----

function showAnswer() {
  const answer = doc.answer;
  $("where").textContent = `${doc.title}: ${answer.where}`;
  $("figure").textContent = answer.figure;
  $("gain").textContent = answer.words;
  const chip = (kind, words) => make("span", { class: `chip ${kind}` }, words);
  $("chips").append(
    chip(answer.measured ? "measured" : "predicted", answer.how),
    chip(answer.dropMeasured ? "measured" : "predicted", answer.drop),
    ...(answer.decoding ? [chip("predicted", answer.decoding)] : []),
    chip("", answer.layers),
  );
  $("notes").append(...doc.notes.map((note) => make("li", {}, note)));
  $("layers-lead").textContent = doc.points.length
    ? `The outline is ${doc.lowerBound && doc.unit === "seconds" ? "the lower bound on " : ""}` +
      `${doc.unit === "seconds" ? "the time" : "the bytes moved"} in float32, the filled part that of the plan` +
      `${doc.conversions.length ? ", with conversions of what the layer reads on top" : ""}. ` +
      "Click a layer for all its formats."
    : "The outline is the layer's share of the float32 cost, the filled part what the plan leaves of it.";
}

function showSelection() {
  const point = doc.points[state.point];
  $("panel").hidden = !point;
  if (!point) return;
  const words = point.words;
  const uniform = point.name === "plan" ? "chosen plan" : `uniform ${point.name}`;
  const name = point.name ? uniform : "plan on the frontier";
  const parts = [
    [name, ""], [words.time, words.gain], words.drop ? [words.drop, words.measured] : [words.measured, ""], [words.size, "weights"],
    [words.mix, ""],
  ];
  $("readout").replaceChildren(
    ...parts.filter(([a]) => a).map(
      ([a, b]) => make("span", {}, make("b", {}, a), b ? `${b === "weights" ? "" : ","} ${b}` : ""),
    ),
  );
  $("slider").setAttribute("aria-valuetext", `${name}, ${words.time}, ${words.drop || words.measured}, ${words.mix}`);
}

function showLegend() {
  const used = new Set([float32, ...current()]);
  const listed = doc.formats.filter((_, k) => doc.formats.length <= 9 || used.has(k));
  $("legend").replaceChildren(
    ...listed.map((f) =>
      make(
        "li", {},
        make("i", { style: `background:${f.colour}` }),
        f.words === f.name ? f.name : `${f.name}: ${f.words}`,
      )),
  );
}

function setUpControls() {
  const slider = $("slider");
  slider.max = String(doc.slider.length - 1);
  slider.addEventListener("input", () => select(doc.slider[Number(slider.value)]));
  $("slide").hidden = doc.slider.length < 2;
  if (doc.unit === "bytes") $("cheap").textContent = "few bytes";
  $("reset").addEventListener("click", () => select(doc.chosen));
  $("layer").append(...doc.layers.map((layer, i) => make("option", { value: i }, `${i + 1}  ${layer.name}`)));
  $("layer").addEventListener("change", () => inspect(Number($("layer").value)));
}

// ---- (h) the table, (i) the facts ----

function showTable() {
  const time = doc.lowerBound ? "time, at least" : "time, predicted";
  const head = make(
    "tr", {},
    ...[
      "", "weights", "BOPs", "energy", "bytes moved", time, doc.gainHeading, "accuracy drop",
    ].map((h) => make("th", { scope: "col" }, h)),
  );
  const rows = doc.table.map((row) => {
    const name = row.point < 0 ? make("span", {}, row.name) : make(
      "button",
      { type: "button", "aria-label": `Show ${row.name}` },
      row.name,
    );
    if (row.point >= 0) name.addEventListener("click", () => select(row.point));
    return make(
      "tr", { "data-point": row.point },
      make("th", { scope: "row" }, name, make("small", {}, row.words)),
      ...row.cells.map((cell) => make("td", {}, cell)),
    );
  });
  $("table").append(make("thead", {}, head), make("tbody", {}, ...rows));
  $("table-notes").textContent = [
    "BOPs are multiplications x bits of a weight x bits of an activation.",
    ...doc.tableNotes,
  ].join(" ");
}

function markTable() {
  for (const row of $("table").tBodies[0].rows) {
    row.classList.toggle("current", state.point >= 0 && Number(row.dataset.point) === state.point);
  }
}

function showFacts() {
  $("facts").append(...doc.facts.flatMap(([label, value]) => [make("dt", {}, label), make("dd", {}, value)]));
  $("commands").textContent = doc.commands.join("\n");
}

// ---- all of it ----

const shown = {
  frontier: doc.points.length > 0,
  "heat-part": doc.points.length > 0 && doc.dropsKnown,
  "heat-missing": doc.points.length > 0 && !doc.dropsKnown,
  "step-words": doc.dropsKnown, "unknown-words": doc.points.some((p) => p.drop === null),
  graph: doc.points.length > 0, roofline: doc.roofline !== null,
};
const timed = doc.measured !== null;

function redraw() {
  showSelection();
  showLegend();
  if (shown.frontier) frontier();
  bars();
  if (shown["heat-part"]) heat();
  inspector();
  if (shown.graph) graph();
  if (shown.roofline) roofline();
  if (timed) measuredLayers();
  markTable();
}

function follow() {
  const tip = $("tip");
  document.addEventListener("pointermove", (event) => {
    const words = event.target.closest?.("[data-tip]")?.dataset.tip;
    tip.hidden = !words;
    if (!words) return;
    tip.textContent = words.replace(/\n+/g, "\n").trim();
    tip.style.left = `${Math.max(4, Math.min(event.clientX + 14, innerWidth - tip.offsetWidth - 8))}px`;
    tip.style.top = `${Math.max(4, Math.min(event.clientY + 14, innerHeight - tip.offsetHeight - 8))}px`;
  });
  document.addEventListener("pointerleave", () => { tip.hidden = true; });
}

function start() {
  for (const [name, visible] of Object.entries(shown)) {
    ($(`${name}-section`) ?? $(name)).hidden = !visible;
  }
  showAnswer();
  setUpControls();
  showTable();
  showFacts();
  $("heat-note").textContent = doc.heatNote;
  if (timed) measuredTable();
  else $("measured-words").textContent = doc.timeNote;
  follow();
  select(doc.chosen);
  let width = innerWidth;
  addEventListener("resize", () => {
    if (innerWidth === width) return; // a phone's address bar comes and goes
    width = innerWidth;
    redraw();
  });
}
start();
