// Further charts: the network, the roofline, and what was measured.

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
  const [svg] = canvas(
    $("graph"), tops.at(-1) + 36 + 34 * lanes.at(-1),
    `Network of ${doc.layers.length} layers, ${converted.size} conversions`,
  );
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
    nodes.append(draw("path", {
      d: `M${mx} ${my - 6}l6 6l-6 6l-6 -6z`, class: "hot",
      "data-tip": `${format(formats[source]).name} to ${format(formats[target]).name}: ${cost(edge.price)}`,
    }));
  }
  at.forEach(([x, y], i) => {
    const group = draw("g", {
      "data-tip": `${doc.layers[i].name}\n${format(formats[i]).name}`,
      style: "cursor:pointer",
    });
    group.addEventListener("click", () => inspect(i));
    group.append(draw("rect", {
      x: x - 14, y: y - 10, width: 28, height: 20, rx: 5, fill: format(formats[i]).colour,
    }));
    if (i === state.layer) group.append(draw("rect", {
      x: x - 15, y: y - 11, width: 30, height: 22, rx: 6, class: "picked",
    }));
    group.append(text(x, y + 4, String(i + 1), { class: "onfill", "text-anchor": "middle" }));
    nodes.append(group);
  });
  svg.append(nodes);
}

// ---- (d) the roofline ----

function roofline() {
  const formats = current();
  const { peaks, memory } = doc.roofline;
  const placed = doc.layers.map(
    (layer, i) => ({ i, from: layer.roof[float32], to: layer.roof[formats[i]] }),
  ).filter((p) => p.from && p.to);
  if (!placed.length) return $("roofline").replaceChildren("No layer has work to place here.");
  const [svg, width] = canvas($("roofline"), 360, `Roofline with ${placed.length} layers`);
  const [left, right, top, bottom] = [54, width - 16, 16, 316];
  const all = doc.layers.flatMap((layer) => layer.roof).filter(Boolean);
  const [highest, slowest] = [Math.max(...peaks.map(([, p]) => p)), memory.at(-1)[1]];
  const xs = [Math.min(...all.map((p) => p[0])) / 2, Math.max(...all.map((p) => p[0]), highest / slowest) * 2];
  const ys = [Math.min(...all.map((p) => p[1])) / 2, Math.max(highest, ...all.map((p) => p[1])) * 1.6];
  const [x, y] = [logarithmic(xs, [left, right]), logarithmic(ys, [bottom, top])];
  for (const t of decades(...xs, width / 90)) svg.append(
    line(x(t), top, x(t), bottom, "grid"),
    text(x(t), bottom + 18, digits(t), { "text-anchor": "middle" }),
  );
  for (const t of decades(...ys, 7)) svg.append(
    line(left, y(t), right, y(t), "grid"),
    text(left - 6, y(t) + 4, prefixed(t, ""), { "text-anchor": "end" }),
  );
  svg.append(
    text(right, bottom + 36, "FLOP/byte", { "text-anchor": "end" }),
    text(left + 6, top + 2, "FLOP/s"),
  );
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
    svg.append(
      line(x(Math.max(xs[0], peak / slowest)), y(peak), right, y(peak), "roof"),
      text(right - 2, y(peak) - 5, `${name} ${prefixed(peak, "FLOP/s")}`, { "text-anchor": "end" }),
    );
  }
  for (const p of placed) {
    const [[a, b], [c, d]] = [p.from, p.to];
    if (formats[p.i] !== float32) svg.append(
      arrow(x(a), y(b), x(c), y(d)),
      draw("circle", { cx: x(a), cy: y(b), r: 2.5, class: "outline" }),
    );
    const dot = draw("circle", {
      cx: x(c), cy: y(d), r: p.i === state.layer ? 7 : 5, fill: format(formats[p.i]).colour,
      class: "dot",
      "data-tip":
        `${doc.layers[p.i].name} in ${format(formats[p.i]).name}\n` +
        `${digits(c)} FLOP/byte, ${prefixed(d, "FLOP/s")}`,
      style: "cursor:pointer",
    });
    dot.addEventListener("click", () => inspect(p.i));
    svg.append(dot);
  }
}

function arrow(x1, y1, x2, y2) {
  const angle = Math.atan2(y2 - y1, x2 - x1);
  const [ex, ey] = [x2 - 6 * Math.cos(angle), y2 - 6 * Math.sin(angle)];
  const side = (turn) => `${ex - 6 * Math.cos(angle + turn)} ${ey - 6 * Math.sin(angle + turn)}`;
  return draw("path", {
    d: `M${x1} ${y1}L${ex} ${ey}M${side(0.45)}L${ex} ${ey}L${side(-0.45)}`,
    class: "arrow", fill: "none",
  });
}

// ---- (f) predicted and measured ----

function measuredTable() {
  const { words, whole, note } = doc.measured;
  $("measured-words").textContent = [words, note].filter(Boolean).join(". ");
  const intervals = whole.some(([, , , low, high]) => low < high) ? ["interval"] : [];
  const head = make(
    "tr", {},
    ...[
      "network", doc.lowerBound ? "at least" : "predicted", "measured", ...intervals,
    ].map((h) => make("th", { scope: "col" }, h)),
  );
  const row = ([name, predicted, value, low, high]) => make(
    "tr", {},
    make("th", { scope: "row" }, name === "fp32" ? "float32" : name),
    ...[
      cost(predicted), cost(value),
      ...intervals.map(() => `${cost(low)} to ${cost(high)}`),
    ].map((c) => make("td", {}, c)),
  );
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
    svg.append(
      line(x(t), top, x(t), bottom, "grid"),
      text(x(t), bottom + 18, cost(t), { "text-anchor": "middle" }),
    );
    svg.append(
      line(left, y(t), right, y(t), "grid"),
      text(left - 6, y(t) + 4, cost(t), { "text-anchor": "end" }),
    );
  }
  svg.append(
    line(left, bottom, right, top, "axis"),
    text(right, bottom + 36, "predicted", { "text-anchor": "end" }),
    text(left + 6, top + 2, "measured"),
  );
  for (const row of rows) {
    const colour = row.format < 0 ? "currentColor" : format(row.format).colour;
    svg.append(draw("circle", {
      cx: x(row.predicted), cy: y(row.measured), r: 5, fill: colour,
      "data-tip": `${row.name}\npredicted ${cost(row.predicted)}, measured ${cost(row.measured)}`,
    }));
  }
}
