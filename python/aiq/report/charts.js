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
  if (steepest >= 0.2 * high || !doc.dropsKnown) return {
    high, at: linear([low, high], range), ticks: ticks(low, high, 5), note: "",
  };
  // Nearly all of the frontier is close to zero: a scale that is linear there, then logarithmic.
  const small = Math.max(Math.min(high / 2000, steepest / 20), 1e-9);
  const bent = (drop) => Math.asinh(drop / small);
  const found = [0, ...decades(small, high, 5)];
  const scale = linear([bent(low), bent(high)], range);
  return { high, at: (drop) => scale(bent(drop)), ticks: found, note: ", logarithmic" };
}

function frontier() {
  const [svg, width] = canvas(
    $("frontier"), 348,
    `Frontier of ${doc.points.length} plans by cost and accuracy drop`,
  );
  const unknown = doc.points.some((p) => p.drop === null);
  const [left, right, top, bottom] = [66, width - 16, unknown ? 62 : 28, 304];
  // a plan that was timed and is not kept has no place here: its drop is not known
  const measured = (doc.unit === "seconds" ? doc.measured?.whole ?? [] : []).filter(
    ([name]) => doc.points.some((p) => p.name === name),
  );
  const costs = [...doc.points.map((p) => p.cost), ...measured.flatMap((row) => row.slice(2))];
  const drops = dropScale([bottom, top]);
  const high = drops.high;
  const y = (drop) => (drop === null ? 40 : drops.at(Math.min(drop, high)));
  const x = linear([0.92 * Math.min(...costs), 1.04 * Math.max(...costs)], [left, right]);
  const [size, unit] = costUnit(Math.max(...costs));
  for (const t of ticks(0.92 * Math.min(...costs), 1.04 * Math.max(...costs), width / 110)) {
    svg.append(
      line(x(t), top, x(t), bottom, "grid"),
      text(x(t), bottom + 18, digits(t / size), { "text-anchor": "middle" }),
    );
  }
  for (const t of drops.ticks) {
    svg.append(
      line(left, y(t), right, y(t), "grid"),
      text(left - 8, y(t) + 4, digits(doc.dropUnit.factor * t), { "text-anchor": "end" }),
    );
  }
  const time = doc.lowerBound ? "lower bound on time" : measured.length ? "time" : "predicted time";
  const what = doc.unit === "seconds" ? `${time} of ${doc.run}` : "bytes moved";
  svg.append(
    text(right, bottom + 36, `${what}, ${unit}`, { "text-anchor": "end" }),
    text(4, 12, `${doc.dropUnit.words}${drops.note}`),
  );
  if (unknown) svg.append(
    line(left, y(null), right, y(null), "unknown"), text(4, 44, "not known"),
  );
  if (doc.budget !== null && doc.budget <= high) {
    svg.append(line(left, y(doc.budget), right, y(doc.budget), "budget"));
    svg.append(text(right - 4, y(doc.budget) - 6, `budget ${dropWords(doc.budget)}`, {
      class: "hot", "text-anchor": "end",
    }));
  }
  const best = doc.points.filter((p) => p.optimal && p.drop !== null);
  const steps = best.map((p, i) => `${i ? `V${y(p.drop)}H` : "M"}${x(p.cost)}${i ? "" : ` ${y(p.drop)}`}`);
  svg.append(draw("path", { d: steps.join(""), class: "path" }));
  doc.points.forEach((p, i) => svg.append(frontierMark(p, i, x, y, high)));
  const taken = [];
  const important = (q) => ["plan", "fp32"].indexOf(q.name) >= 0;
  const labelled = doc.points.filter((q) => q.labelled).sort((p, q) => important(q) - important(p));
  for (const p of labelled) {
    const above = p.drop > high;
    svg.append(
      frontierLabel(
        above ? `${p.name} (${dropWords(p.drop)})` : p.name,
        x(p.cost), y(p.drop), right, above, taken,
      ),
    );
  }
  for (const [name, , value, from, to] of measured) {
    const p = doc.points.find((q) => q.name === name);
    const at = y(p.measured ?? p.drop);
    svg.append(line(x(from), at, x(to), at, "whisker"));
    svg.append(draw("rect", {
      x: x(value) - 5, y: at - 5, width: 10, height: 10, class: "solid",
      "data-tip": `${name}, measured: ${cost(value)} (${cost(from)} to ${cost(to)})`,
    }));
    svg.append(frontierLabel(`${name}, measured`, x(value), at, right, false, taken));
  }
  const p = doc.points[state.point];
  if (p) {
    const [px, py] = [x(p.cost), y(p.drop)];
    svg.append(
      line(px, py, px, bottom, "cross"), line(left, py, px, py, "cross"),
      draw("circle", { cx: px, cy: py, r: 9, class: "ring" }),
    );
  }
}

function frontierMark(p, i, x, y, high) {
  const above = p.drop > high;
  const [px, py] = [x(p.cost), y(p.drop)];
  const label = p.name && (p.name === "plan" ? "plan" : p.name);
  const words = [`${p.words.time}, ${p.words.gain}`, p.words.drop, p.words.measured, p.words.mix];
  const tip = [label || "plan on the frontier", ...words].join("\n");
  const group = draw("g", { "data-tip": tip, style: "cursor:pointer" });
  group.addEventListener("click", () => select(i));
  if (p.measured !== null) {
    const at = y(p.measured);
    group.append(
      line(px, at, px, y(p.limit), "whisker"),
      line(px - 4, y(p.limit), px + 4, y(p.limit), "whisker"),
    );
    group.append(draw("circle", { cx: px, cy: at, r: 4.5, class: "solid" }));
  }
  const shape = above
    ? `M${px} ${py - 7}l7 11h-14z`
    : p.name && p.name !== "plan"
      ? `M${px} ${py - 7}l7 7l-7 7l-7 -7z`
      : `M${px - 4.5} ${py}a4.5 4.5 0 1 0 9 0a4.5 4.5 0 1 0 -9 0z`;
  group.append(draw("path", { d: shape, class: "hollow" }));
  return group;
}

function frontierLabel(words, px, py, right, above, taken) {
  const end = px + 10 + 8 * words.length > right;
  let at = py + (above ? 22 : -10);
  const hidden = () => taken.some(
    ([qx, qy]) => Math.abs(qx - px) < (words.length > 8 ? 100 : 60) && Math.abs(qy - at) < 14,
  );
  for (let turn = 0; turn < 3 && hidden(); turn += 1) at += above ? 14 : -14;
  if (hidden()) return ""; // there is no room: the tip says it
  taken.push([px, at]);
  return text(end ? px - 6 : px + 6, at, words, {
    class: "strong", "text-anchor": end ? "end" : "start", "pointer-events": "none",
  });
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
  const [svg, width] = canvas(
    $("bars"), 210 + names,
    `Cost of ${doc.layers.length} layers in float32 and in the plan`,
  );
  const columns = layerColumns(width);
  const own = (layer, k) => layer.cost[k] ?? 0;
  const most = Math.max(
    ...doc.layers.map((l, i) => Math.max(own(l, float32), own(l, formats[i]) + incoming[i])),
    1e-300,
  );
  const y = linear([0, most], [200, 12]);
  const [size, unit] = costUnit(most);
  for (const t of ticks(0, most, 4)) {
    svg.append(
      line(GUTTER, y(t), width, y(t), "grid"),
      text(GUTTER - 8, y(t) + 4, digits(t / size), { "text-anchor": "end" }),
    );
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
    group.append(draw("rect", {
      x: from, y: y(value), width: span, height: 200 - y(value), fill: format(k).colour,
      class: "bar", "data-layer": i,
    }));
    if (incoming[i]) group.append(draw("rect", {
      x: from, y: y(value + incoming[i]), width: span, height: y(value) - y(value + incoming[i]),
      class: "hot",
    }));
    const before = own(layer, float32);
    group.append(
      span < 2.5 ? line(from, y(before), from + span, y(before), "outline") : draw(
        "rect",
        { x: from, y: y(before), width: span, height: 200 - y(before), class: "outline" },
      ),
    );
    if (i === state.layer) group.append(draw("rect", {
      x: from - 1, y: 202, width: span + 2, height: 4, class: "mark",
    }));
    const middle = from + span / 2;
    if (wide) group.append(text(middle, 214, cut(layer.short, 15), {
      transform: `rotate(-55 ${middle} 214)`, "text-anchor": "end", style: "font-size:11px",
    }));
    else if ((i + 1) % Math.ceil(doc.layers.length / 8) === 0) group.append(text(middle, 218, String(i + 1), {
      "text-anchor": "middle",
    }));
    svg.append(group);
  });
}
const cut = (name, most) => (name.length > most ? `…${name.slice(1 - most)}` : name);

function heat() {
  const formats = current();
  const drops = doc.layers.flatMap((layer) => layer.drop).filter((d) => d > 0);
  const [low, high] = [Math.max(Math.min(...drops), Math.max(...drops) / 1e4), Math.max(...drops)];
  const part = (d) => Math.max(0, Math.log(d / low) / Math.log(high / low || 10) || 0);
  const strength = (d) => (d > 0 && drops.length ? 0.06 + 0.94 * part(d) : 0);
  const tall = doc.formats.length > 12 ? 14 : 22;
  const [svg, width] = canvas(
    $("heat"), tall * doc.formats.length + 4, "Sensitivity of each layer in each format",
  );
  const columns = layerColumns(width);
  doc.formats.forEach((f, k) => {
    svg.append(text(GUTTER - 8, tall * k + tall / 2 + 6, cut(f.name, 8), { "text-anchor": "end" }));
    doc.layers.forEach((layer, i) => {
      const open = layer.allowed.includes(k);
      const cell = draw("rect", {
        x: columns.at(i), y: tall * k + 2, width: columns.step, height: tall, class: "cell hot",
        "fill-opacity": strength(layer.drop[k]),
        "data-tip": `${layer.name} in ${f.name}\n${dropWords(layer.drop[k])}${open ? "" : "\nnot allowed here"}`,
      });
      cell.addEventListener("click", () => inspect(i));
      svg.append(cell);
      if (!open) svg.append(
        line(columns.at(i), tall * (k + 1) + 2, columns.at(i) + columns.step, tall * k + 2, "grid"),
      );
    });
  });
  const frame = (i) => (columns.step < 6
    ? { y: tall * (formats[i] + 1) - 2, height: 4, x: columns.at(i), width: columns.step, class: "mark" }
    : {
      y: tall * formats[i] + 3, height: tall - 2, x: columns.at(i) + 1, width: columns.step - 2,
      class: "picked",
    });
  doc.layers.forEach((_, i) => svg.append(draw("rect", frame(i))));
  $("heat-scale").textContent = drops.length
    ? `From ${dropWords(low)} (pale) to ${dropWords(high)} (strong), on a logarithmic scale. ` +
      "The mark is the plan; a stroke means that the format is not allowed."
    : "No layer loses anything in any format.";
}

function inspector() {
  const layer = doc.layers[state.layer];
  const now = current()[state.layer];
  const own = layer.cost[now];
  const why = layer.why ? `; ${layer.why}` : "";
  $("layer-words").textContent = `${layer.op}, ${layer.work}. Chosen: ${format(layer.format).name}${why}.`;
  const bound = doc.lowerBound && doc.unit === "seconds"; // then no ratio of two is shown
  const what = doc.points.length ? (doc.unit === "seconds" ? "time" : "bytes") : "share";
  const headings = [
    "format", bound ? "time, at least" : what, ...(bound ? [] : ["against this"]), "drop alone",
  ];
  const head = make("tr", {}, ...headings.map((h) => make("th", { scope: "col" }, h)));
  // of many formats, those that another one beats in both are left out
  const beaten = (k) => layer.cost.some(
    (c, j) =>
      j !== k && c <= layer.cost[k] && layer.drop[j] <= layer.drop[k] &&
      (c < layer.cost[k] || layer.drop[j] < layer.drop[k]),
  );
  const listed = doc.formats.map((_, k) => k).filter(
    (k) => doc.formats.length <= 12 || k === now || !beaten(k),
  );
  const rows = listed.map((k) => {
    const f = format(k);
    const value = layer.cost[k];
    const percent = digits(100 * (value / own - 1) || 0);
    const change = value === null || own === null || k === now ? "" : `${value > own ? "+" : ""}${percent} %`;
    const words = layer.allowed.includes(k) ? "" : " (not allowed)";
    return make(
      "tr", k === now ? { class: "current" } : {}, make("th", { scope: "row" }, f.name + words),
      make("td", {}, cost(value)), bound ? null : make("td", {}, change),
      make("td", {}, dropWords(layer.drop[k])),
    );
  });
  $("layer-table").replaceChildren(make("thead", {}, head), make("tbody", {}, ...rows));
}
