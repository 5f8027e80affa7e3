"use strict";
// Draws the page from the JSON in #data (analysis/page_data.py says what is in it). No library, no network.

let data = JSON.parse(document.getElementById("data").textContent);
const PALETTE = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00"]; // Okabe and Ito
const SVG = "http://www.w3.org/2000/svg";
let series = [];
const hidden = new Set();
const budgetsOff = new Set();
let chosen = null;
let order = { by: "series", up: true };

const at = (id) => document.getElementById(id);
const eps = (e) => (e === null ? "–" : e === "inf" ? "∞" : `${+(+e).toPrecision(3)}`);
const number = (v) => (v === undefined || v === null ? "–" : `${+(+v).toPrecision(4)}`);
const size = (e) => (e === "inf" ? Infinity : e === null ? NaN : +e);
const colour = (name) => PALETTE[series.indexOf(name) % PALETTE.length];
const dashes = (name) => ["", "6 3", "2 3", "9 3 2 3"][Math.floor(series.indexOf(name) / PALETTE.length) % 4];
const metric = () => data.metrics.find((m) => m.name === at("metric").value);

function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

function draw(tag, attributes, ...children) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

function options(select, values) {
  select.replaceChildren(...values.map((v) => make("option", { value: v, textContent: v })));
}

// ---- the chart: ε on a logarithmic axis, with places of their own for 0 and ∞ ----

function scaleOf(values, from, to) {
  const low = Math.min(...values), high = Math.max(...values), pad = 0.08 * (high - low || Math.abs(high) || 1);
  const place = (v) => from + ((v - low + pad) / (high - low + 2 * pad)) * (to - from);
  const step = 10 ** Math.floor(Math.log10((high - low + 2 * pad) / 4));
  const nice = [1, 2, 5, 10].map((k) => k * step).find((s) => (high - low + 2 * pad) / s <= 7);
  const ticks = [];
  for (let t = Math.ceil((low - pad) / nice) * nice; t <= high + pad; t += nice) ticks.push(t);
  return { place, ticks };
}

function budgetScale(epsilons, from, to) {
  const finite = epsilons.filter((e) => e > 0 && e < Infinity).map(Math.log10);
  const zero = epsilons.includes(0) ? 80 : 0, infinite = epsilons.includes(Infinity) ? 80 : 0;
  const low = finite.length ? Math.min(...finite) : 0, high = finite.length ? Math.max(...finite) : 0;
  const left = from + zero + 20, right = to - infinite - 20;
  return (e) =>
    e === 0 ? from + 30
    : e === Infinity ? to - 30
    : high === low ? (left + right) / 2
    : left + ((Math.log10(e) - low) / (high - low)) * (right - left);
}

function chart() {
  const m = metric();
  at("meaning").textContent = m ? `${m.sentence} ${m.lower ? "Lower" : "Higher"} is better.` : "No trial has finished.";
  at("chart").replaceChildren();
  if (!m) return;
  const shown = data.trials.filter((t) => !hidden.has(t.series) && m.name in t.metrics);
  const means = (data.means[m.name] || []).filter((p) => !hidden.has(p.series));
  if (!shown.length) return at("chart").append(make("p", { textContent: "No trial of the shown series has this metric." }));
  const narrow = at("chart").clientWidth < 520, width = narrow ? 380 : 900, height = narrow ? 340 : 420;
  const box = { left: 62, right: width - 14, top: 12, bottom: height - 46 };
  const bars = means.flatMap((p) => (p.half === null ? [] : [p.mean - p.half, p.mean + p.half]));
  const y = scaleOf([...shown.map((t) => t.metrics[m.name]), ...bars, ...(m.floor === null ? [] : [m.floor])], box.bottom, box.top);
  const epsilons = [...new Set(shown.map((t) => size(t.epsilon)))].sort((a, b) => a - b);
  const place = budgetScale(epsilons, box.left, box.right);
  const beside = [...new Set(shown.map((t) => t.series))], gap = Math.min(24, 66 / beside.length);
  const x = (e, name) => place(e) + (beside.indexOf(name) - (beside.length - 1) / 2) * gap; // series do not hide each other
  const seedsOf = new Map(beside.map((name) => [name, [...new Set(shown.filter((t) => t.series === name).map((t) => t.seed))]]));
  const aside = (t) => ((seedsOf.get(t.series).indexOf(t.seed) + 0.5) / seedsOf.get(t.series).length - 0.5) * gap * 0.8;
  const svg = draw("svg", { viewBox: `0 0 ${width} ${height}`, role: "group", "aria-label": `${m.name} against ε` });
  for (const t of y.ticks) {
    svg.append(draw("line", { class: "grid", x1: box.left, x2: box.right, y1: y.place(t), y2: y.place(t) }),
      draw("text", { x: box.left - 8, y: y.place(t) + 4, "text-anchor": "end" }, number(t)));
  }
  for (const e of epsilons) {
    svg.append(draw("line", { class: "grid", x1: place(e), x2: place(e), y1: box.top, y2: box.bottom }),
      draw("text", { x: place(e), y: box.bottom + 20, "text-anchor": "middle" }, e === Infinity ? "∞" : eps(e)));
  }
  svg.append(draw("text", { x: (box.left + box.right) / 2, y: height - 6, "text-anchor": "middle" }, "ε of one trial"));
  if (m.floor !== null) {
    svg.append(draw("line", { x1: box.left, x2: box.right, y1: y.place(m.floor), y2: y.place(m.floor), stroke: "#8a8a8a", "stroke-dasharray": "4 4" }),
      draw("text", { x: box.right, y: y.place(m.floor) - 5, "text-anchor": "end" }, `real images: ${number(m.floor)}`));
  }
  for (const name of series) {
    const line = means.filter((p) => p.series === name).sort((a, b) => size(a.epsilon) - size(b.epsilon));
    const joined = line.filter((p) => size(p.epsilon) > 0 && size(p.epsilon) < Infinity);
    if (joined.length > 1) {
      const points = joined.map((p) => `${x(size(p.epsilon), name)},${y.place(p.mean)}`).join(" ");
      svg.append(draw("polyline", { points, fill: "none", stroke: colour(name), "stroke-width": 2, "stroke-dasharray": dashes(name) }));
    }
    for (const p of line.filter((each) => each.half !== null)) {
      const middle = x(size(p.epsilon), name);
      svg.append(draw("line", { x1: middle, x2: middle, y1: y.place(p.mean - p.half), y2: y.place(p.mean + p.half), stroke: colour(name), "stroke-width": 2 }));
    }
  }
  for (const t of shown) {
    const mark = draw("circle", {
      class: t.id === chosen ? "mark chosen" : "mark", cx: x(size(t.epsilon), t.series) + aside(t), cy: y.place(t.metrics[m.name]), r: 6,
      fill: colour(t.series), tabindex: 0, role: "button", "data-trial": t.id,
      "aria-label": `${t.series}, ε = ${eps(t.epsilon)}, seed ${t.seed}: ${number(t.metrics[m.name])}`,
    });
    mark.addEventListener("click", () => choose(t.id));
    mark.addEventListener("keydown", (e) => { if (e.key === "Enter" || e.key === " ") { e.preventDefault(); choose(t.id); } });
    for (const name of ["mouseenter", "focus"]) mark.addEventListener(name, () => tip(mark));
    for (const name of ["mouseleave", "blur"]) mark.addEventListener(name, () => at("tip")?.remove());
    svg.append(mark);
  }
  at("chart").append(svg);
}

function tip(mark) {
  at("tip")?.remove();
  const frame = at("chart").getBoundingClientRect(), place = mark.getBoundingClientRect();
  const box = make("div", { id: "tip", textContent: mark.getAttribute("aria-label") });
  box.style.top = `${place.bottom - frame.top + 6}px`;
  at("chart").append(box);
  const left = Math.min(place.left - frame.left, frame.width - box.offsetWidth);
  box.style.left = `${Math.max(0, left)}px`;
}

function legend() {
  at("legend").replaceChildren(...series.map((name) => {
    const button = make("button", { type: "button", ariaPressed: `${!hidden.has(name)}` });
    const line = draw("svg", { viewBox: "0 0 24 10", width: 24, height: 10, "aria-hidden": "true", style: "display:inline-block;width:24px;margin-right:.3rem" },
      draw("line", { x1: 0, x2: 24, y1: 5, y2: 5, stroke: colour(name), "stroke-width": 3, "stroke-dasharray": dashes(name) }));
    button.append(line, name);
    button.addEventListener("click", () => {
      if (!hidden.delete(name)) hidden.add(name);
      button.ariaPressed = `${!hidden.has(name)}`;
      chart();
    });
    return make("li", {}, button);
  }));
}

// ---- one trial ----

function strip(t, kind) {
  const image = make("img", { className: t.pictures.side > 64 ? "strip smooth" : "strip", src: t.pictures[kind], alt: `${t.pictures.columns} ${kind === "coarse" ? "coarse " : ""}samples of ${t.id}` });
  return image;
}

function choose(id) {
  chosen = id;
  const t = data.trials.find((each) => each.id === id), box = at("detail");
  const facts = { series: t.series, status: t.reason ? `${t.status}: ${t.reason}` : t.status, "ε asked for": eps(t.epsilon), "ε spent": eps(t.spent), seed: t.seed, ...Object.fromEntries(Object.entries(t.metrics).map(([k, v]) => [k, number(v)])), "seconds of stages made for it": number(t.seconds) };
  box.replaceChildren(make("h3", { textContent: t.id }), list(facts));
  if (t.pictures) box.append(strip(t, "images"), make("p", { className: "fine", textContent: "Above: samples; below: the coarse images that they were made from." }), strip(t, "coarse"));
  for (const note of t.notes) box.append(make("p", { className: "fine", textContent: note }));
  if (t.command) box.append(make("p", { textContent: "To make it again:" }), make("pre", { textContent: t.command }));
  box.append(make("details", {}, make("summary", { textContent: "Its configuration, where it is not at its default" }), make("pre", { textContent: t.settings })));
  at("chart").querySelectorAll(".mark").forEach((m) => m.classList.toggle("chosen", m.dataset.trial === id));
  box.focus({ preventScroll: true });
  box.scrollIntoView({ block: "nearest" });
}

function list(facts) {
  return make("dl", {}, ...Object.entries(facts).flatMap(([k, v]) => [make("dt", { textContent: k }), make("dd", { textContent: v })]));
}

// ---- samples ----

function browser() {
  const name = at("series").value, kind = at("coarse").checked ? "coarse" : "images";
  const kept = data.trials.filter((t) => t.series === name && `${t.seed}` === at("seed").value && t.pictures);
  const rows = [...new Map(kept.map((t) => [t.samples, t])).values()].sort((a, b) => size(a.epsilon) - size(b.epsilon));
  at("browser").replaceChildren(...rows.map((t) =>
    make("div", { className: "row" }, make("span", { className: "label", textContent: `ε = ${eps(t.epsilon)}` }), make("div", {}, strip(t, kind)))));
  if (!rows.length) at("browser").append(make("p", { textContent: "No finished trial of this series and seed kept samples." }));
}

function seeds() {
  options(at("seed"), [...new Set(data.trials.filter((t) => t.series === at("series").value).map((t) => t.seed))]);
  browser();
}

// ---- what bounds the picture ----

function waterfall() {
  if (!data.waterfall.length) return;
  at("waterfall").append(make("h2", { textContent: "What bounds the picture" }));
  for (const chain of data.waterfall) {
    const most = Math.max(...chain.steps.map((s) => s.value));
    const rows = chain.steps.map((s) => {
      const bar = make("div", { className: "bar" });
      bar.style.width = `${(100 * s.value) / most}%`;
      const change = s.change === null ? "" : ` (${s.change > 0 ? "+" : ""}${number(s.change)})`;
      return make("tr", {}, make("td", { textContent: s.label }), make("td", { className: "number", textContent: number(s.value) + change }), make("td", { style: "width:50%" }, bar));
    });
    at("waterfall").append(make("h3", { textContent: chain.title }), make("div", { className: "wide" }, make("table", { style: "width:100%" }, make("tbody", {}, ...rows))));
  }
}

// ---- the table ----

const columns = () => [
  { name: "series", of: (t) => t.series },
  { name: "ε", of: (t) => size(t.epsilon), text: (t) => eps(t.epsilon), number: true },
  { name: "seed", of: (t) => t.seed, number: true },
  ...data.metrics.map((m) => ({ name: m.name, of: (t) => t.metrics[m.name], text: (t) => number(t.metrics[m.name]), number: true })),
  { name: "ε spent", of: (t) => size(t.spent), text: (t) => eps(t.spent), number: true },
  { name: "seconds", of: (t) => t.seconds, text: (t) => number(t.seconds), number: true },
  { name: "status", of: (t) => t.status },
  { name: "trial", of: (t) => t.id },
];

function head() {
  const cells = columns().map((c) => {
    const button = make("button", { type: "button", textContent: c.name });
    button.addEventListener("click", () => {
      order = { by: c.name, up: order.by === c.name ? !order.up : true };
      body();
    });
    const cell = make("th", { scope: "col", className: c.number ? "number" : "" }, button);
    cell.dataset.column = c.name;
    return cell;
  });
  at("table").tHead.replaceChildren(make("tr", {}, ...cells));
}

function body() {
  const words = at("words").value.toLowerCase(), by = columns().find((c) => c.name === order.by);
  const rank = (v) => (v === undefined || v === null || Number.isNaN(v) ? null : v);
  const compare = (a, b) => {
    const [p, q] = [rank(by.of(a)), rank(by.of(b))];
    if (p === null || q === null) return (p === null) - (q === null); // what is missing comes last either way
    return (order.up ? 1 : -1) * (p < q ? -1 : p > q ? 1 : 0);
  };
  const rows = data.trials.filter((t) => !budgetsOff.has(eps(t.epsilon)) && `${t.series} ${t.id} ${t.status}`.toLowerCase().includes(words)).sort(compare);
  for (const cell of at("table").tHead.rows[0].cells) {
    cell.ariaSort = cell.dataset.column === order.by ? (order.up ? "ascending" : "descending") : "none";
    cell.firstChild.textContent = cell.dataset.column + (cell.ariaSort === "none" ? "" : order.up ? " ▲" : " ▼");
  }
  at("table").tBodies[0].replaceChildren(...rows.map((t) => {
    const row = make("tr", { className: "trial" }, ...columns().map((c) => {
      const cell = make("td", { className: c.number ? "number" : "", textContent: c.text ? c.text(t) : c.of(t) });
      if (c.name !== "trial") return cell;
      const button = make("button", { type: "button", textContent: t.id });
      cell.replaceChildren(button);
      return cell;
    }));
    row.addEventListener("click", () => choose(t.id));
    return row;
  }));
  at("counted").textContent = `${rows.length} of ${data.trials.length} trials`;
}

function budgets() {
  const every = [...new Map(data.trials.map((t) => [eps(t.epsilon), size(t.epsilon)])).entries()].sort((a, b) => a[1] - b[1]);
  at("budgets").append(...every.map(([text]) => {
    const box = make("input", { type: "checkbox", checked: !budgetsOff.has(text) });
    box.addEventListener("change", () => {
      if (box.checked) budgetsOff.delete(text); else budgetsOff.add(text);
      body();
    });
    return make("label", {}, box, ` ${text}`);
  }));
}

// ---- privacy and provenance ----

function privacy() {
  for (const s of data.studies) {
    if (data.studies.length > 1) at("privacy").append(make("h3", { textContent: s.name }));
    at("privacy").append(list(s.prices), ...s.notes.map((n) => make("p", { textContent: n })));
    const rows = s.ledger.map((l) => make("tr", {}, ...[l.what, l.how, l.budget, l.records, `${l.trials}`].map((text) => make("td", { textContent: text }))));
    const heads = ["what", "how", "budget", "of", "trials"].map((text) => make("th", { scope: "col", textContent: text }));
    at("privacy").append(make("div", { className: "wide" }, make("table", {}, make("thead", {}, make("tr", {}, ...heads)), make("tbody", {}, ...rows))));
  }
}

function made() {
  for (const s of data.studies) {
    const ended = Object.entries(s.counts).filter(([, n]) => n).map(([k, n]) => `${n} ${k}`).join(", ");
    at("made").append(make("h3", { textContent: s.name }), list({ trials: ended, commit: s.commit || "–", created: s.created || "–", versions: Object.entries(s.versions).map(([k, v]) => `${k} ${v}`).join(", ") || "–" }));
    if (s.command) at("made").append(make("pre", { textContent: s.command }));
  }
}

// ---- a study that runs, where `analysis.report --serve` shows it ----

function clock(seconds) {
  const whole = Math.floor(seconds), two = (n) => `${n}`.padStart(2, "0");
  return whole < 3600 ? `${Math.floor(whole / 60)}:${two(whole % 60)}` : `${Math.floor(whole / 3600)}:${two(Math.floor(whole / 60) % 60)}:${two(whole % 60)}`;
}

function running(now) {
  const parts = [make("h2", { textContent: now.running ? "Running now" : "Not running" })];
  if (now.running) {
    const rows = now.running.map(([trial, stage, done, since, left, waits]) => make("tr", {}, make("td", { textContent: trial }), make("td", { textContent: stage }),
      make("td", { className: "number", textContent: since !== null && done ? `${Math.round(100 * done)} %` : "" }),
      make("td", { textContent: since === null ? `waits for ${waits}` : clock(since) + (left === null ? "" : `, ${clock(left)} to go`) })));
    const heads = ["trial", "stage", "done", "time"].map((text) => make("th", { scope: "col", textContent: text }));
    parts.push(make("p", { textContent: now.study }), make("div", { className: "wide" }, make("table", {}, make("thead", {}, make("tr", {}, ...heads)), make("tbody", {}, ...rows))));
  }
  parts.push(make("p", { textContent: now.spent }));
  at("running").replaceChildren(...parts);
}

let records = null;
async function look() {
  try {
    const now = await (await fetch("status")).json();
    running(now);
    if (records !== null && records !== now.records) show(await (await fetch("data")).json());
    records = now.records;
  } catch {
    at("running").replaceChildren(make("p", { textContent: "The server does not answer: what is below was true when it last did." }));
  }
  setTimeout(look, 2000);
}

// ---- all of it ----

function keep(select, values) {
  const before = select.value;
  options(select, values);
  if (values.includes(before)) select.value = before;
}

function show(fresh) {
  data = fresh;
  series = [...new Set(data.trials.map((t) => t.series))];
  at("title").textContent = data.title;
  at("headlines").replaceChildren(...data.studies.map((s) => make("p", { className: "headline", textContent: data.studies.length > 1 ? `${s.name}: ${s.headline}` : s.headline })));
  keep(at("metric"), data.metrics.map((m) => m.name));
  keep(at("series"), series);
  for (const id of ["waterfall", "privacy", "made"]) at(id).replaceChildren();
  at("budgets").querySelectorAll("label").forEach((label) => label.remove());
  for (const part of [legend, chart, seeds, waterfall, budgets, head, body, privacy, made]) part();
}

at("metric").addEventListener("change", chart);
at("series").addEventListener("change", seeds);
at("seed").addEventListener("change", browser);
at("coarse").addEventListener("change", browser);
at("words").addEventListener("input", body);
window.addEventListener("resize", chart);
show(data);
if (location.protocol.startsWith("http")) look();
