"use strict";
// The charts. Each draws itself anew for the plan and the layer that are selected in `state`.

// ---- (b) the frontier ----

function dropScale(range) {
  const optimal = doc.points.filter((p) => p.optimal).map((p) => p.drop);
  const plan = doc.points[doc.chosen];
  const wanted = Math.max(1.3 * (doc.budget ?? 0), 1.3 * plan.drop, 1.1 * (plan.limit ?? 0), 1e-6);
  const steepest = Math.max(...optimal, 0);
  const high = Math.min(Math.max(wanted, 1.1 * steepest), 3 * wanted);
  const low = Math.min(0, ...doc.points.map((p) => Math.min(p.drop, p.measured ?? 0)));
  if (steepest >= 0.2 * high) return { high, at: linear([low, high], range), ticks: ticks(low, high, 5), note: "" };
  // Nearly all of the frontier is close to zero: a scale that is linear there, then logarithmic.
  const small = Math.max(Math.min(high / 2000, steepest / 20), 1e-9);
  const bent = (drop) => Math.asinh(drop / small);
  const found = [0, ...decades(small, high, 5)];
  const scale = linear([bent(low), bent(high)], range);
  return { high, at: (drop) => scale(bent(drop)), ticks: found, note: ", logarithmic" };
}

function frontier() {
  const [svg, width] = canvas($("frontier"), 348, `Frontier of ${doc.points.length} plans by cost and accuracy drop`);
  const [left, right, top, bottom] = [66, width - 16, 28, 304];
  // a plan that was timed and is not kept has no place here: its drop is not known
  const measured = (doc.unit === "seconds" ? doc.measured?.whole ?? [] : []).filter(([name]) => doc.points.some((p) => p.name === name));
  const costs = [...doc.points.map((p) => p.cost), ...measured.flatMap((row) => row.slice(2))];
  const drops = dropScale([bottom, top]);
  const high = drops.high;
  const y = (drop) => drops.at(Math.min(drop, high));
  const x = linear([0.92 * Math.min(...costs), 1.04 * Math.max(...costs)], [left, right]);
  const [size, unit] = costUnit(Math.max(...costs));
  for (const t of ticks(0.92 * Math.min(...costs), 1.04 * Math.max(...costs), width / 110)) {
    svg.append(line(x(t), top, x(t), bottom, "grid"), text(x(t), bottom + 18, digits(t / size), { "text-anchor": "middle" }));
  }
  for (const t of drops.ticks) {
    svg.append(line(left, y(t), right, y(t), "grid"), text(left - 8, y(t) + 4, digits(100 * t), { "text-anchor": "end" }));
  }
  const what = doc.unit === "seconds" ? `${doc.lowerBound ? "lower bound on time" : measured.length ? "time" : "predicted time"} of a batch` : "bytes moved";
  svg.append(text(right, bottom + 36, `${what}, ${unit}`, { "text-anchor": "end" }), text(4, 12, `accuracy drop, pp${drops.note}`));
  if (doc.budget !== null && doc.budget <= high) {
    svg.append(line(left, y(doc.budget), right, y(doc.budget), "budget"));
    svg.append(text(right - 4, y(doc.budget) - 6, `budget ${percentPoints(doc.budget)}`, { class: "hot", "text-anchor": "end" }));
  }
  const best = doc.points.filter((p) => p.optimal);
  const steps = best.map((p, i) => `${i ? `V${y(p.drop)}H` : "M"}${x(p.cost)}${i ? "" : ` ${y(p.drop)}`}`);
  svg.append(draw("path", { d: steps.join(""), class: "path" }));
  doc.points.forEach((p, i) => svg.append(frontierMark(p, i, x, y, high)));
  const taken = [];
  const important = (q) => ["plan", "fp32"].indexOf(q.name) >= 0;
  const labelled = doc.points.filter((q) => q.labelled).sort((p, q) => important(q) - important(p));
  for (const p of labelled) {
    const above = p.drop > high;
    svg.append(frontierLabel(above ? `${p.name} (${percentPoints(p.drop)})` : p.name, x(p.cost), y(p.drop), right, above, taken));
  }
  for (const [name, , value, from, to] of measured) {
    const p = doc.points.find((q) => q.name === name);
    const at = y(p.measured ?? p.drop);
    svg.append(line(x(from), at, x(to), at, "whisker"));
    svg.append(draw("rect", { x: x(value) - 5, y: at - 5, width: 10, height: 10, class: "solid", "data-tip": `${name}, measured: ${cost(value)} (${cost(from)} to ${cost(to)})` }));
    svg.append(frontierLabel(`${name}, measured`, x(value), at, right, false, taken));
  }
  const p = doc.points[state.point];
  if (p) {
    const [px, py] = [x(p.cost), y(p.drop)];
    svg.append(line(px, py, px, bottom, "cross"), line(left, py, px, py, "cross"), draw("circle", { cx: px, cy: py, r: 9, class: "ring" }));
  }
}

function frontierMark(p, i, x, y, high) {
  const above = p.drop > high;
  const [px, py] = [x(p.cost), y(p.drop)];
  const label = p.name && (p.name === "plan" ? "plan" : p.name);
  const tip = `${label || "plan on the frontier"}\n${p.words.time}, ${p.words.gain}\n${p.words.drop}\n${p.words.measured}\n${p.words.mix}`;
  const group = draw("g", { "data-tip": tip, style: "cursor:pointer" });
  group.addEventListener("click", () => select(i));
  if (p.measured !== null) {
    const at = y(p.measured);
    group.append(line(px, at, px, y(p.limit), "whisker"), line(px - 4, y(p.limit), px + 4, y(p.limit), "whisker"));
    group.append(draw("circle", { cx: px, cy: at, r: 4.5, class: "solid" }));
  }
  const shape = above
    ? `M${px} ${py - 7}l7 11h-14z`
    : p.name && p.name !== "plan" ? `M${px} ${py - 7}l7 7l-7 7l-7 -7z` : `M${px - 4.5} ${py}a4.5 4.5 0 1 0 9 0a4.5 4.5 0 1 0 -9 0z`;
  group.append(draw("path", { d: shape, class: "hollow" }));
  return group;
}

function frontierLabel(words, px, py, right, above, taken) {
  const end = px + 10 + 8 * words.length > right;
  let at = py + (above ? 22 : -10);
  const hidden = () => taken.some(([qx, qy]) => Math.abs(qx - px) < (words.length > 8 ? 100 : 60) && Math.abs(qy - at) < 14);
  for (let turn = 0; turn < 3 && hidden(); turn += 1) at += above ? 14 : -14;
  if (hidden()) return ""; // there is no room: the tip says it
  taken.push([px, at]);
  return text(end ? px - 6 : px + 6, at, words, { class: "strong", "text-anchor": end ? "end" : "start", "pointer-events": "none" });
}

// ---- (c) layers as bars, (g) the heat map under them ----

const GUTTER = 64; // room for what is left of both

function layerColumns(width) {
  const step = Math.min(80, (width - GUTTER - 4) / doc.layers.length);
  return { at: (i) => GUTTER + i * step, step, gap: Math.min(3, step / 6) };
}

function bars() {
  const formats = current();
  const converted = conversionsOf(formats);
  const incoming = doc.layers.map(() => 0);
  for (const edge of converted.values()) incoming[edge.target] += edge.price;
  const wide = $("bars").clientWidth / doc.layers.length >= 13;
  const longest = Math.max(...doc.layers.map((layer) => Math.min(15, layer.short.length)));
  const names = wide ? 18 + 5 * longest : 18;
  const [svg, width] = canvas($("bars"), 210 + names, `Cost of ${doc.layers.length} layers in float32 and in the plan`);
  const columns = layerColumns(width);
  const own = (layer, k) => layer.cost[k] ?? 0;
  const most = Math.max(...doc.layers.map((l, i) => Math.max(own(l, float32), own(l, formats[i]) + incoming[i])), 1e-300);
  const y = linear([0, most], [200, 12]);
  const [size, unit] = costUnit(most);
  for (const t of ticks(0, most, 4)) {
    svg.append(line(GUTTER, y(t), width, y(t), "grid"), text(GUTTER - 8, y(t) + 4, digits(t / size), { "text-anchor": "end" }));
  }
  svg.append(text(0, 12, unit));
  doc.layers.forEach((layer, i) => {
    const [k, from, span] = [formats[i], columns.at(i) + columns.gap / 2, columns.step - columns.gap];
    const value = own(layer, k);
    const tip = `${layer.name}\n${format(k).name}: ${cost(value)}, float32: ${cost(own(layer, float32))}` +
      (incoming[i] ? `\nconversions: ${cost(incoming[i])}` : "");
    const group = draw("g", { "data-tip": tip, style: "cursor:pointer" });
    group.addEventListener("click", () => inspect(i));
    group.append(draw("rect", { x: from, y: 12, width: span, height: 188, fill: "transparent" }));
    group.append(draw("rect", { x: from, y: y(value), width: span, height: 200 - y(value), fill: format(k).colour, class: "bar", "data-layer": i }));
    if (incoming[i]) group.append(draw("rect", { x: from, y: y(value + incoming[i]), width: span, height: y(value) - y(value + incoming[i]), class: "hot" }));
    const before = own(layer, float32);
    group.append(span < 2.5 ? line(from, y(before), from + span, y(before), "outline") : draw("rect", { x: from, y: y(before), width: span, height: 200 - y(before), class: "outline" }));
    if (i === state.layer) group.append(draw("rect", { x: from - 1, y: 202, width: span + 2, height: 4, class: "mark" }));
    const middle = from + span / 2;
    if (wide) group.append(text(middle, 214, cut(layer.short, 15), { transform: `rotate(-55 ${middle} 214)`, "text-anchor": "end", style: "font-size:11px" }));
    else if ((i + 1) % Math.ceil(doc.layers.length / 8) === 0) group.append(text(middle, 218, String(i + 1), { "text-anchor": "middle" }));
    svg.append(group);
  });
}
const cut = (name, most) => (name.length > most ? `…${name.slice(1 - most)}` : name);

function heat() {
  const formats = current();
  const drops = doc.layers.flatMap((layer) => layer.drop).filter((d) => d > 0);
  const [low, high] = [Math.max(Math.min(...drops), Math.max(...drops) / 1e4), Math.max(...drops)];
  const strength = (d) => (d > 0 && drops.length ? 0.06 + 0.94 * Math.max(0, Math.log(d / low) / Math.log(high / low || 10) || 0) : 0);
  const tall = doc.formats.length > 12 ? 14 : 22;
  const [svg, width] = canvas($("heat"), tall * doc.formats.length + 4, "Sensitivity of each layer in each format");
  const columns = layerColumns(width);
  doc.formats.forEach((f, k) => {
    svg.append(text(GUTTER - 8, tall * k + tall / 2 + 6, cut(f.name, 8), { "text-anchor": "end" }));
    doc.layers.forEach((layer, i) => {
      const open = layer.allowed.includes(k);
      const cell = draw("rect", { x: columns.at(i), y: tall * k + 2, width: columns.step, height: tall, class: "cell hot", "fill-opacity": strength(layer.drop[k]), "data-tip": `${layer.name} in ${f.name}\n${percentPoints(layer.drop[k])}${open ? "" : "\nnot allowed here"}` });
      cell.addEventListener("click", () => inspect(i));
      svg.append(cell);
      if (!open) svg.append(line(columns.at(i), tall * (k + 1) + 2, columns.at(i) + columns.step, tall * k + 2, "grid"));
    });
  });
  const frame = (i) => (columns.step < 6
    ? { y: tall * (formats[i] + 1) - 2, height: 4, x: columns.at(i), width: columns.step, class: "mark" }
    : { y: tall * formats[i] + 3, height: tall - 2, x: columns.at(i) + 1, width: columns.step - 2, class: "picked" });
  doc.layers.forEach((_, i) => svg.append(draw("rect", frame(i))));
  $("heat-scale").textContent = drops.length
    ? `From ${percentPoints(low)} (pale) to ${percentPoints(high)} (strong), on a logarithmic scale. The mark is the plan; a stroke means that the format is not allowed.`
    : "No layer loses anything in any format.";
}

function inspector() {
  const layer = doc.layers[state.layer];
  const now = current()[state.layer];
  const own = layer.cost[now];
  $("layer-words").textContent = `${layer.op}, ${layer.work}. Chosen: ${format(layer.format).name}${layer.why ? `; ${layer.why}` : ""}.`;
  const bound = doc.lowerBound && doc.unit === "seconds"; // then no ratio of two is shown
  const what = doc.points.length ? (doc.unit === "seconds" ? "time" : "bytes") : "share";
  const headings = ["format", bound ? "time, at least" : what, ...(bound ? [] : ["against this"]), "drop alone"];
  const head = make("tr", {}, ...headings.map((h) => make("th", { scope: "col" }, h)));
  // of many formats, those that another one beats in both are left out
  const beaten = (k) => layer.cost.some((c, j) => j !== k && c <= layer.cost[k] && layer.drop[j] <= layer.drop[k] && (c < layer.cost[k] || layer.drop[j] < layer.drop[k]));
  const listed = doc.formats.map((_, k) => k).filter((k) => doc.formats.length <= 12 || k === now || !beaten(k));
  const rows = listed.map((k) => {
    const f = format(k);
    const value = layer.cost[k];
    const change = value === null || own === null || k === now ? "" : `${value > own ? "+" : ""}${digits(100 * (value / own - 1) || 0)} %`;
    const words = layer.allowed.includes(k) ? "" : " (not allowed)";
    return make("tr", k === now ? { class: "current" } : {}, make("th", { scope: "row" }, f.name + words), make("td", {}, cost(value)), bound ? null : make("td", {}, change), make("td", {}, percentPoints(layer.drop[k])));
  });
  $("layer-table").replaceChildren(make("thead", {}, head), make("tbody", {}, ...rows));
}

// ---- (e) the network ----

function graph() {
  const places = doc.layers.map((layer) => layer.place);
  const box = $("graph").clientWidth;
  const across = Math.max(4, Math.floor(box / 46));
  const step = box / across;
  const lanes = []; // of each row
  for (const [column, lane] of places) {
    const row = Math.floor(column / across);
    lanes[row] = Math.max(lanes[row] ?? 1, lane + 1);
  }
  const tops = lanes.map((_, row) => lanes.slice(0, row).reduce((sum, n) => sum + 36 + 34 * n, 0));
  const formats = current();
  const converted = conversionsOf(formats);
  const [svg] = canvas($("graph"), tops.at(-1) + 36 + 34 * lanes.at(-1), `Network of ${doc.layers.length} layers, ${converted.size} conversions`);
  const at = places.map(([column, lane]) => {
    const row = Math.floor(column / across);
    const turn = column % across; // every other row runs back, so that neighbours stay together
    return [(row % 2 ? across - 1 - turn : turn) * step + step / 2, tops[row] + 36 + 34 * lane, row];
  });
  const nodes = draw("g", {});
  for (const [source, target] of doc.edges) {
    const [[x1, y1, r1], [x2, y2, r2]] = [at[source], at[target]];
    const far = r1 === r2 && Math.abs(x2 - x1) > 1.5 * step && y1 === y2;
    const bend = far ? y1 - 46 : (y1 + y2) / 2;
    const d = far ? `M${x1} ${y1}Q${(x1 + x2) / 2} ${bend} ${x2} ${y2}` : `M${x1} ${y1}L${x2} ${y2}`;
    const edge = converted.get(`${source}-${target}`);
    svg.append(draw("path", { d, class: edge ? "converted" : "edge" }));
    if (!edge) continue;
    const [mx, my] = [(x1 + x2) / 2, far ? (y1 + bend) / 2 : (y1 + y2) / 2];
    nodes.append(draw("path", { d: `M${mx} ${my - 6}l6 6l-6 6l-6 -6z`, class: "hot", "data-tip": `${format(formats[source]).name} to ${format(formats[target]).name}: ${cost(edge.price)}` }));
  }
  at.forEach(([x, y], i) => {
    const group = draw("g", { "data-tip": `${doc.layers[i].name}\n${format(formats[i]).name}`, style: "cursor:pointer" });
    group.addEventListener("click", () => inspect(i));
    group.append(draw("rect", { x: x - 14, y: y - 10, width: 28, height: 20, rx: 5, fill: format(formats[i]).colour }));
    if (i === state.layer) group.append(draw("rect", { x: x - 15, y: y - 11, width: 30, height: 22, rx: 6, class: "picked" }));
    group.append(text(x, y + 4, String(i + 1), { class: "onfill", "text-anchor": "middle" }));
    nodes.append(group);
  });
  svg.append(nodes);
}

// ---- (d) the roofline ----

function roofline() {
  const formats = current();
  const { peaks, memory } = doc.roofline;
  const placed = doc.layers.map((layer, i) => ({ i, from: layer.roof[float32], to: layer.roof[formats[i]] })).filter((p) => p.from && p.to);
  if (!placed.length) return $("roofline").replaceChildren("No layer has work to place here.");
  const [svg, width] = canvas($("roofline"), 360, `Roofline with ${placed.length} layers`);
  const [left, right, top, bottom] = [54, width - 16, 16, 316];
  const all = doc.layers.flatMap((layer) => layer.roof).filter(Boolean);
  const [highest, slowest] = [Math.max(...peaks.map(([, p]) => p)), memory.at(-1)[1]];
  const xs = [Math.min(...all.map((p) => p[0])) / 2, Math.max(...all.map((p) => p[0]), highest / slowest) * 2];
  const ys = [Math.min(...all.map((p) => p[1])) / 2, Math.max(highest, ...all.map((p) => p[1])) * 1.6];
  const [x, y] = [logarithmic(xs, [left, right]), logarithmic(ys, [bottom, top])];
  for (const t of decades(...xs, width / 90)) svg.append(line(x(t), top, x(t), bottom, "grid"), text(x(t), bottom + 18, digits(t), { "text-anchor": "middle" }));
  for (const t of decades(...ys, 7)) svg.append(line(left, y(t), right, y(t), "grid"), text(left - 6, y(t) + 4, prefixed(t, ""), { "text-anchor": "end" }));
  svg.append(text(right, bottom + 36, "FLOP/byte", { "text-anchor": "end" }), text(left + 6, top + 2, "FLOP/s"));
  let [before, above] = [-100, -100]; // where the last label of a cache is
  for (const [name, bandwidth] of memory) {
    const [from, to] = [Math.max(xs[0], ys[0] / bandwidth), highest / bandwidth];
    if (to <= xs[0]) continue;
    const main = bandwidth === slowest;
    svg.append(line(x(from), y(from * bandwidth), x(to), y(highest), main ? "roof" : "cache"));
    const [lx, ly] = [x(from), y(from * bandwidth)];
    if (main) svg.append(text(lx + 30, Math.min(ly + 8, bottom - 6), `${name} ${prefixed(bandwidth, "B/s")}`));
    else if (Math.abs(ly - above) > 11 || Math.abs(lx - before) > 20) {
      svg.append(text(lx + 3, ly - 3, name, { style: "font-size:10px" }));
      [before, above] = [lx, ly];
    }
  }
  for (const [name, peak] of peaks) {
    svg.append(line(x(Math.max(xs[0], peak / slowest)), y(peak), right, y(peak), "roof"), text(right - 2, y(peak) - 5, `${name} ${prefixed(peak, "FLOP/s")}`, { "text-anchor": "end" }));
  }
  for (const p of placed) {
    const [[a, b], [c, d]] = [p.from, p.to];
    if (formats[p.i] !== float32) svg.append(arrow(x(a), y(b), x(c), y(d)), draw("circle", { cx: x(a), cy: y(b), r: 2.5, class: "outline" }));
    const dot = draw("circle", { cx: x(c), cy: y(d), r: p.i === state.layer ? 7 : 5, fill: format(formats[p.i]).colour, class: "dot", "data-tip": `${doc.layers[p.i].name} in ${format(formats[p.i]).name}\n${digits(c)} FLOP/byte, ${prefixed(d, "FLOP/s")}`, style: "cursor:pointer" });
    dot.addEventListener("click", () => inspect(p.i));
    svg.append(dot);
  }
}

function arrow(x1, y1, x2, y2) {
  const angle = Math.atan2(y2 - y1, x2 - x1);
  const [ex, ey] = [x2 - 6 * Math.cos(angle), y2 - 6 * Math.sin(angle)];
  const side = (turn) => `${ex - 6 * Math.cos(angle + turn)} ${ey - 6 * Math.sin(angle + turn)}`;
  return draw("path", { d: `M${x1} ${y1}L${ex} ${ey}M${side(0.45)}L${ex} ${ey}L${side(-0.45)}`, class: "arrow", fill: "none" });
}

// ---- (f) predicted and measured ----

function measuredTable() {
  const { words, whole, note } = doc.measured;
  $("measured-words").textContent = [words, note].filter(Boolean).join(". ");
  const intervals = whole.some(([, , , low, high]) => low < high) ? ["interval"] : [];
  const head = make("tr", {}, ...["network", doc.lowerBound ? "at least" : "predicted", "measured", ...intervals].map((h) => make("th", { scope: "col" }, h)));
  const row = ([name, predicted, value, low, high]) => make("tr", {}, make("th", { scope: "row" }, name === "fp32" ? "float32" : name), ...[cost(predicted), cost(value), ...intervals.map(() => `${cost(low)} to ${cost(high)}`)].map((c) => make("td", {}, c)));
  $("measured-table").replaceChildren(make("thead", {}, head), make("tbody", {}, ...whole.map(row)));
}

function measuredLayers() {
  const rows = doc.measured.layers.filter((row) => row.predicted > 0);
  if (!rows.length) return;
  const [svg, width] = canvas($("measured"), 340, `Predicted and measured time of ${rows.length} layers`);
  const [left, right, top, bottom] = [60, width - 16, 16, 296];
  const values = rows.flatMap((row) => [row.predicted, row.measured]);
  const range = [Math.min(...values) / 1.5, Math.max(...values) * 1.5];
  const [x, y] = [logarithmic(range, [left, right]), logarithmic(range, [bottom, top])];
  for (const t of decades(...range, 6)) {
    svg.append(line(x(t), top, x(t), bottom, "grid"), text(x(t), bottom + 18, cost(t), { "text-anchor": "middle" }));
    svg.append(line(left, y(t), right, y(t), "grid"), text(left - 6, y(t) + 4, cost(t), { "text-anchor": "end" }));
  }
  svg.append(line(left, bottom, right, top, "axis"), text(right, bottom + 36, "predicted", { "text-anchor": "end" }), text(left + 6, top + 2, "measured"));
  for (const row of rows) {
    const colour = row.format < 0 ? "currentColor" : format(row.format).colour;
    svg.append(draw("circle", { cx: x(row.predicted), cy: y(row.measured), r: 5, fill: colour, "data-tip": `${row.name}\npredicted ${cost(row.predicted)}, measured ${cost(row.measured)}` }));
  }
}
