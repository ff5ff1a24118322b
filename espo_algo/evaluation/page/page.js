"use strict";

/* The page of responses. All text goes into the page as text nodes: nothing that others wrote is ever read as HTML. */

let data = JSON.parse(document.getElementById("data").textContent);
const live = document.body.dataset.live === "true";
const POLL_MS = 1000;

const isStopped = (r) => r.stop === "regret";
const isMarked = (r) => r.mark >= 0 && !isStopped(r);
const isRight = (r) => r.correct === 1;

const KINDS = [
  ["all", "all", () => true],
  ["stopped", "stopped", isStopped],
  ["marked", "marked, ran on", isMarked],
  ["wrong-stop", "wrong stop", (r) => isMarked(r) && isRight(r)],
  ["right", "right", isRight],
  ["wrong", "wrong", (r) => r.stop === "eos" && !isRight(r)],
  ["cut", "cut at the horizon", (r) => r.stop === "length"],
];
const first = (is) => (r) => (is(r) ? 0 : 1);
const SORTS = [
  ["problem", "as in the batch", () => 0],
  ["stopped", "stopped first", (r) => (isStopped(r) ? 0 : isMarked(r) ? 1 : 2)],
  ["wrong-stop", "wrong stops first", first(KINDS[3][2])],
  ["right", "right first", first(isRight)],
  ["longest", "longest first", (r) => -r.length],
  ["shortest", "shortest first", (r) => r.length],
];
const RATES = [
  ["accuracy", "accuracy", "share of the responses that were right"],
  ["stop_rate", "stop rate", "share of the responses that were stopped or marked"],
  ["false_positive_rate", "wrong stops", "share of the marked responses that ran on and were right"],
  ["response_length", "mean length", "tokens a response"],
  ["tokens", "rollout tokens", "tokens written since the run began"],
  ["beta", "beta", "tolerance of the stop rule"],
  ["entropy", "entropy, nats", "of a token, in the update"],
  ["vf_explained_var", "critic explains", "share of the returns' variance that the critic explained"],
];
const COLUMNS = [
  ["regrets", "regret"], ["z", "z"], ["thresholds", "threshold"], ["values", "V"], ["td_errors", "TD error"],
  ["advantages", "advantage"], ["logprobs", "log-probability"],
];
const COLOURS = [["regrets", "regret"], ["values", "value"], ["advantages", "advantage"]];

// --- what is shown, kept in the address so that a reload or a link shows the same --------------------------------------

const DEFAULTS = { run: 0, other: data.runs.length === 2 ? 1 : -1, at: "", show: "all", sort: "stopped", colour: "regrets", together: 1 };
const state = { ...DEFAULTS };

function readAddress() {
  const given = new URLSearchParams(location.hash.slice(1));
  for (const [name, value] of given) {
    if (Object.hasOwn(DEFAULTS, name)) state[name] = typeof DEFAULTS[name] === "number" ? Number(value) : value;
  }
}

function writeAddress() {
  const changed = Object.entries(state).filter(([name, value]) => value !== DEFAULTS[name]);
  history.replaceState(null, "", changed.length ? `#${new URLSearchParams(changed)}` : location.pathname + location.search);
}

// --- small helpers -----------------------------------------------------------------------------------------------------

const byId = (id) => document.getElementById(id);

function el(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

function svg(tag, attributes = {}, ...children) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

const known = (x) => x !== null && x !== undefined;

function number(x, digits = 3) {
  if (!known(x)) return "–";
  if (Math.abs(x) >= 1e6) return x.toExponential(1);
  if (Math.abs(x) >= 1000) return Math.round(x).toLocaleString("en");
  return String(Number(x.toPrecision(digits)));
}

function rate(name, x) {
  if (!known(x)) return "–";
  if (name === "tokens") return x >= 1e6 ? `${number(x / 1e6)}M` : x >= 1e4 ? `${number(x / 1e3)}k` : number(x);
  return ["accuracy", "stop_rate", "false_positive_rate"].includes(name) ? `${(100 * x).toFixed(1)} %` : number(x);
}

function ticks(low, high, most) {
  const rough = (high - low) / most;
  const unit = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((factor) => factor * unit).find((size) => size >= rough * 0.999);
  const found = [];
  for (let k = Math.ceil(low / step - 1e-6); k * step <= high + step * 1e-6; k++) found.push(k * step);
  return found;
}

function extremes(values, ...others) {
  const finite = [...values.filter(known), ...others];
  return [finite.reduce((a, b) => Math.min(a, b), Infinity), finite.reduce((a, b) => Math.max(a, b), -Infinity)];
}

function path(name, values, x, y) {
  let d = "";
  let pen = "M";
  values.forEach((value, i) => {
    if (known(value)) d += `${pen}${x(i).toFixed(1)} ${y(value).toFixed(1)}`;
    pen = known(value) ? "L" : "M";
  });
  return svg("path", { class: name, d: d && `${d}h0` });
}

// --- runs and snapshots ------------------------------------------------------------------------------------------------

const run = () => data.runs[state.run];
const other = () => data.runs[state.other];
const key = (snapshot) => snapshot.label ?? `iteration ${snapshot.iteration}`;

/** The chosen one, else the newest of the training. */
function snapshotOf(one) {
  const snapshots = one.snapshots;
  const training = snapshots.filter((s) => s.label === null);
  return snapshots.find((s) => key(s) === state.at) ?? training[training.length - 1] ?? snapshots[snapshots.length - 1];
}

/** The other run's snapshot: of the same name, else the nearest iteration. */
function snapshotBeside(snapshot) {
  const distance = (s) => Math.abs(s.iteration - snapshot.iteration);
  const snapshots = other().snapshots;
  return snapshots.find((s) => key(s) === key(snapshot)) ?? [...snapshots].sort((a, b) => distance(a) - distance(b))[0];
}

function problemKey(response) {
  return JSON.stringify([response.problem, response.prompt]);
}

function byProblem(responses) {
  const groups = new Map();
  for (const response of responses) {
    const name = problemKey(response);
    if (!groups.has(name)) groups.set(name, []);
    groups.get(name).push(response);
  }
  return groups;
}

// --- controls ----------------------------------------------------------------------------------------------------------

function options(select, pairs, chosen) {
  select.replaceChildren(...pairs.map(([value, text]) => el("option", { value }, text)));
  select.value = String(chosen);
}

function drawControls(snapshot) {
  const several = data.runs.length > 1;
  byId("run-field").hidden = byId("other-field").hidden = !several;
  options(byId("run"), data.runs.map((one, i) => [i, one.name]), state.run);
  const others = data.runs.map((one, i) => [i, one.name]).filter(([i]) => i !== state.run);
  options(byId("other"), [[-1, "nothing"], ...others], state.other);
  const snapshots = run().snapshots;
  options(byId("snapshot"), snapshots.map((s) => [key(s), key(s)]), snapshot ? key(snapshot) : "");
  const place = snapshots.indexOf(snapshot);
  byId("earlier").disabled = place <= 0;
  byId("later").disabled = place < 0 || place === snapshots.length - 1;
  byId("together-field").hidden = state.other >= 0;
  byId("together").checked = state.together === 1;
}

function drawKinds(responses) {
  const field = byId("show");
  if (field.querySelector("input") === null) {
    for (const [name, text] of KINDS) {
      const input = el("input", { type: "radio", name: "show", value: name });
      field.append(el("label", {}, input, text, el("b")));
    }
  }
  for (const input of field.querySelectorAll("input")) {
    const [, , is] = KINDS.find(([name]) => name === input.value);
    input.checked = input.value === state.show;
    input.parentNode.querySelector("b").textContent = responses.filter(is).length;
  }
}

// --- rates -------------------------------------------------------------------------------------------------------------

function drawRates(snapshot, beside) {
  const section = byId("rates");
  section.classList.toggle("compared", Boolean(other()));
  section.replaceChildren(...RATES.map((described) => rateTile(described, snapshot, beside)));
}

function rateTile([name, text, meaning], snapshot, beside) {
  const lines = [["own", run(), snapshot], ["beside", other(), beside]].filter(([, one]) => one);
  const tile = el("div", { class: "rate", title: meaning }, el("h2", {}, text));
  const points = lines.flatMap(([, one]) => one.rates[name] ?? []);
  const [low, high] = extremes(points);
  const [start, end] = extremes(lines.flatMap(([, one]) => one.rates.iteration ?? []));
  const chart = svg("svg", { "aria-hidden": "true", viewBox: "0 0 120 30", preserveAspectRatio: "none" });
  const y = (value) => 27 - ((value - low) / (high - low || 1)) * 24;
  for (const [side, one, shown] of lines) {
    const { iteration = [], [name]: values = [] } = one.rates;
    const x = (i) => 2 + ((iteration[i] - start) / (end - start || 1)) * 116;
    const place = shown ? iteration.indexOf(shown.iteration) : iteration.length - 1;
    tile.append(el("p", { class: side }, rate(name, values[place])));
    chart.append(path(side, values, x, y));
    if (known(values[place])) {
      // A line of no length with round ends is a dot, however the picture is stretched.
      const at = `M${x(place)} ${y(values[place])}h0`;
      chart.append(svg("path", { class: `${side} dot`, d: at }));
    }
  }
  for (const line of chart.querySelectorAll("path")) line.setAttribute("vector-effect", "non-scaling-stroke");
  const range = Number.isFinite(low) ? [el("span", {}, rate(name, low)), el("span", {}, rate(name, high))] : ["not measured"];
  tile.append(chart, el("small", {}, ...range));
  return tile;
}

// --- responses ---------------------------------------------------------------------------------------------------------

function drawList(snapshot, beside) {
  const [, kindText, is] = KINDS.find(([name]) => name === state.show) ?? KINDS[0];
  const [, , rank] = SORTS.find(([name]) => name === state.sort) ?? SORTS[0];
  const own = snapshot ? snapshot.responses : [];
  const list = byId("list");
  seen.disconnect();
  let groups;
  if (other()) {
    groups = besideEachOther(own, beside ? beside.responses : [], is);
    byId("count").textContent = groups.length + (state.show === "all" ? " problems" : ` problems with a response in either run: ${kindText}`);
  } else {
    const shown = own.filter(is);
    groups = state.together ? [...byProblem(shown).values()].map((members) => [members]) : shown.map((r) => [[r]]);
    const total = snapshot ? snapshot.total : 0;
    byId("count").textContent = `${shown.length} of ${own.length} recorded responses, out of ${total} in the batch`;
  }
  const best = (group) => extremes(group.flat().map(rank))[0];
  groups.sort((a, b) => best(a) - best(b));
  for (const side of groups.flat()) side.sort((a, b) => rank(a) - rank(b));
  list.replaceChildren(...groups.map((group) => groupCard(group, own)));
  if (!groups.length) list.append(el("p", { class: "none" }, snapshot ? "No response of this kind." : "No responses yet."));
  drawNotes(snapshot, beside);
}

/** Problems as [own responses, the other run's], those of both runs first. */
function besideEachOther(own, others, is) {
  const [left, right] = [byProblem(own), byProblem(others)];
  const names = [...new Set([...left.keys(), ...right.keys()])];
  const both = (name) => left.has(name) && right.has(name);
  names.sort((a, b) => both(b) - both(a));
  return names.map((name) => [left.get(name) ?? [], right.get(name) ?? []]).filter((pair) => pair.flat().some(is));
}

function drawNotes(snapshot, beside) {
  const notes = [];
  if (snapshot?.lost) notes.push(`${snapshot.lost} responses of this snapshot could not be recorded.`);
  if (snapshot?.lost_iterations) notes.push(`${snapshot.lost_iterations} earlier iterations could not be recorded.`);
  if (run().left_out) notes.push(`${run().left_out} snapshots are left out, because the page would be too large.`);
  if (other() && snapshot && (!beside || key(beside) !== key(snapshot))) {
    notes.push(`Beside it: ${beside ? key(beside) : "nothing recorded yet"}.`);
  }
  byId("notes").textContent = notes.join(" ");
}

function groupCard(group, own) {
  const sample = group.flat()[0];
  const all = other() ? group[0] : own.filter((r) => problemKey(r) === problemKey(sample));
  const facts = other() ? "" : summary(all, group.flat().length);
  const heading = el("h2", {}, sample.problem === null ? "Problem" : `Problem ${sample.problem}`, el("span", {}, facts));
  const terms = el("dl", {}, el("dt", {}, "prompt"), el("dd", {}, el("pre", { class: "text" }, sample.prompt)));
  if (sample.reference !== null) {
    terms.append(el("dt", {}, "reference"), el("dd", {}, el("pre", { class: "text" }, sample.reference)));
  }
  const card = el("section", { class: "group" }, el("div", { class: "problem" }, heading, terms));
  if (!other()) {
    card.append(...group[0].map(responseCard));
    return card;
  }
  const sides = [["own", run()], ["beside", other()]].map(([name, one], i) => {
    const side = el("div", { class: `side ${name}` }, el("h3", {}, one.name));
    side.append(...(group[i].length ? group[i].map(responseCard) : [el("p", { class: "none" }, "not recorded in this snapshot")]));
    return side;
  });
  card.append(el("div", { class: "sides" }, ...sides));
  return card;
}

function summary(all, shown) {
  const parts = [[isRight, "right"], [isStopped, "stopped"], [isMarked, "marked"]]
    .map(([is, word]) => [all.filter(is).length, word])
    .filter(([count]) => count)
    .map(([count, word]) => `${count} ${word}`);
  const samples = `${shown < all.length ? `${shown} of ` : ""}${all.length} ${all.length === 1 ? "sample" : "samples"}`;
  return all.length > 1 ? [samples, ...parts].join(" · ") : samples;
}

function badges(response) {
  const found = [];
  if (isStopped(response)) found.push(["stopped", "stopped"]);
  if (isMarked(response)) found.push(["marked", isRight(response) ? "wrong stop" : "marked"]);
  if (response.stop === "length") found.push(["cut", "cut at the horizon"]);
  if (response.stop === "eos") found.push(isRight(response) ? ["right", "right"] : ["wrong", "wrong"]);
  return found.map(([name, text]) => el("span", { class: `badge ${name}` }, text));
}

function responseCard(response) {
  const facts = [`${response.length.toLocaleString("en")} tokens`, `reward ${number(response.reward)}`];
  if (known(response.correct) && response.correct > 0 && response.correct < 1) facts.push(`${number(response.correct)} of a right answer`);
  if (response.answer !== null) facts.push(`answer ${response.answer.length > 80 ? `${response.answer.slice(0, 80)}…` : response.answer}`);
  else if (response.grade !== null) facts.push(`grade: ${response.grade}`);
  const kind = isStopped(response) ? "stopped" : isMarked(response) ? "marked" : "";
  const card = el("article", { class: kind }, el("p", { class: "facts" }, ...badges(response), facts.join(" · ")));
  if (response.why) card.append(el("p", { class: "why" }, response.why));
  const readout = el("output", { class: "readout" });
  const tokens = tokenText(response);
  const figure = el("figure");
  card.append(tokens.node, readout, figure);
  const view = { response, tokens: tokens.spans, readout, figure, steps: tokens.steps, at: -1 };
  views.set(figure, view);
  if (tokens.spans.length) {
    const mark = tokens.steps.indexOf(response.mark);
    moveTo(view, mark >= 0 ? mark : tokens.spans.length - 1);
    tokens.node.addEventListener("pointerover", (event) => {
      const place = tokens.spans.indexOf(event.target);
      if (place >= 0) moveTo(view, place);
    });
    tokens.node.addEventListener("keydown", (event) => {
      const last = tokens.spans.length - 1;
      const place = { ArrowLeft: view.at - 1, ArrowRight: view.at + 1, Home: 0, End: last }[event.key];
      if (place === undefined) return;
      event.preventDefault();
      readout.setAttribute("aria-live", "polite");
      moveTo(view, Math.min(Math.max(place, 0), last));
      keepInSight(tokens.node, tokens.spans[view.at]);
    });
  }
  seen.observe(figure);
  return card;
}

function keepInSight(box, span) {
  const top = span.offsetTop;
  if (top < box.scrollTop) box.scrollTop = top;
  else if (top + span.offsetHeight > box.scrollTop + box.clientHeight) box.scrollTop = top + span.offsetHeight - box.clientHeight;
}

function tokenText(response) {
  const label = "Tokens of the response; arrow keys go from one to the next";
  const node = el("pre", { class: "tokens", tabindex: "0", role: "group", "aria-label": label });
  const spans = [];
  const steps = [];
  let before = 0;
  const gap = (from, to) => {
    const text = `[tokens ${from + 1} to ${to} of ${response.length} left out]`;
    if (to > from) node.append(el("span", { class: "gap" }, text));
  };
  for (const [start, end] of response.kept) {
    gap(before, start);
    for (let step = start; step < end; step++) {
      const after = response.mark >= 0 && step > response.mark;
      const span = el("span", { class: after ? "t after" : "t" }, response.tokens[spans.length].replaceAll("\n", "↵\n") || "∅");
      shade(span, response, spans.length);
      node.append(span);
      if (step === response.mark) node.append(el("b", { class: "flag" }, isStopped(response) ? "◀ stopped" : "◀ would stop"));
      spans.push(span);
      steps.push(step);
    }
    before = end;
  }
  gap(before, response.length);
  return { node, spans, steps };
}

function shade(span, response, place) {
  const value = response.columns[state.colour]?.[place];
  if (!known(value)) return;
  if (state.colour === "advantages") {
    const share = (0.6 * Math.abs(value)) / (Math.abs(value) + 0.5);
    span.style.backgroundColor = value < 0 ? `rgba(225,70,30,${share.toFixed(2)})` : `rgba(30,150,90,${share.toFixed(2)})`;
    return;
  }
  const share = state.colour === "values" ? 0.6 * Math.min(Math.max(value, 0), 1) : 0.85 * (1 - Math.exp(-Math.max(value, 0) / 1.5));
  const colour = state.colour === "values" ? "20,150,135" : "225,70,30";
  if (share >= 0.01) span.style.backgroundColor = `rgba(${colour},${share.toFixed(2)})`;
}

function moveTo(view, place) {
  view.tokens[view.at]?.classList.remove("at");
  view.at = place;
  view.tokens[place].classList.add("at");
  const { columns, tokens } = view.response;
  const parts = [["token", `${view.steps[place] + 1} ${JSON.stringify(tokens[place])}`]];
  for (const [name, text] of COLUMNS) {
    if (name in columns) parts.push([text, known(columns[name][place]) ? number(columns[name][place]) : "none"]);
  }
  view.readout.replaceChildren(...parts.map(([name, value]) => el("span", {}, `${name} `, el("b", {}, value))));
  const cursor = view.figure.querySelector(".cursor");
  if (cursor) {
    cursor.setAttribute("x1", view.x(place));
    cursor.setAttribute("x2", view.x(place));
  }
}

// --- charts: drawn when they come near the window ----------------------------------------------------------------------

const views = new WeakMap();
const drawn = new Set();
const seen = new IntersectionObserver((entries) => {
  for (const entry of entries) {
    if (entry.isIntersecting && !entry.target.firstChild) drawChart(views.get(entry.target));
  }
}, { rootMargin: "600px" });

const LEFT = 44;
const RIGHT = 38;
const GAP = 30;

function drawChart(view) {
  const { response, figure, steps } = view;
  const { columns } = response;
  const count = steps.length;
  const width = figure.clientWidth;
  if (!count || !width) return;
  const inner = width - LEFT - RIGHT;
  view.x = (place) => LEFT + ((place + 0.5) / count) * inner;
  const bar = Math.min(Math.max((inner / count) * 0.7, 0.6), 12);
  const root = svg("svg", { role: "img", "aria-label": `Charts over ${count} tokens. ${response.why}` });
  let top = 18;
  const panels = [];
  const panel = (height, low, high, title, marks) => {
    const y = (value) => top0 + ((high - value) / (high - low)) * height;
    const top0 = top;
    panels.push([top, height]);
    for (const value of ticks(low, high, marks)) {
      const kind = Math.abs(value) < 1e-12 ? "axis" : "grid";
      root.append(svg("line", { class: kind, x1: LEFT, x2: width - RIGHT, y1: y(value), y2: y(value) }));
      root.append(svg("text", { x: LEFT - 6, y: y(value) + 4, "text-anchor": "end" }, number(value)));
    }
    root.append(svg("text", { class: "title", x: LEFT, y: top - 6 }, ...title));
    top += height + GAP;
    return y;
  };
  const word = (name, text) => svg("tspan", { class: name }, text);
  const bars = (name, values, y, base) => {
    values.forEach((value, i) => {
      if (!known(value) || Math.abs(y(value) - base) < 0.3) return;
      const [from, to] = [Math.min(y(value), base), Math.max(y(value), base)];
      root.append(svg("rect", { class: name, x: (view.x(i) - bar / 2).toFixed(1), width: bar.toFixed(1), y: from.toFixed(1), height: (to - from).toFixed(1) }));
    });
  };
  if (columns.z && columns.thresholds) {
    const height = 124;
    const reach = Math.max(extremes(columns.z.map((v) => known(v) ? Math.abs(v) : v), 0.05)[1], 0.05);
    const high = Math.min(Math.max(reach, extremes(columns.thresholds, 0)[1]), 40 * reach) * 1.08;
    const low = Math.min(0, extremes(columns.z, 0)[0] * 1.08);
    const inside = columns.thresholds.map((value) => (known(value) && value <= high ? value : null));
    const beyond = !inside.some(known) ? " (above the picture)" : !inside.every(known) ? " (above the picture in places)" : "";
    const y = panel(height, low, high, [word("z", "z"), ", ", word("threshold", "threshold"), beyond, ", ", word("bars", "regret"), " (bars, nats, right)"], 4);
    if (columns.regrets) {
      const most = Math.max(extremes(columns.regrets, 0)[1], 0.1);
      const floor = y(low);
      const scale = (value) => floor - (value / (most * 1.08)) * height;
      bars("regret", columns.regrets, scale, floor);
      for (const value of ticks(0, most * 1.08, 3)) {
        root.append(svg("text", { x: width - RIGHT + 6, y: scale(value) + 4 }, number(value)));
      }
    }
    root.append(path("threshold", broken(inside, steps), view.x, y), path("z", broken(columns.z, steps), view.x, y));
    const place = steps.indexOf(response.mark);
    if (place >= 0) {
      const kind = isStopped(response) ? "stopped" : "marked";
      root.append(svg("line", { class: kind, x1: view.x(place), x2: view.x(place), y1: y(high), y2: y(low) }));
      root.append(svg("circle", { class: kind, cx: view.x(place), cy: y(columns.z[place] ?? high), r: 5 }));
    }
  }
  if (columns.values) {
    const [low, high] = extremes(columns.values, 0, 1);
    const y = panel(62, low, high, [word("value", "V"), ", the critic's value before each token"], 2);
    root.append(path("value", broken(columns.values, steps), view.x, y));
  }
  if (columns.td_errors && columns.advantages) {
    const [least, most] = extremes([...columns.td_errors, ...columns.advantages], 0);
    const room = (most - least || 1) * 0.06;
    const [low, high] = [least < 0 ? least - room : 0, most > 0 || least === 0 ? most + room : 0];
    const y = panel(78, low, high, [word("bars", "TD error"), " (bars), ", word("advantage", "advantage")], 4);
    bars("td", columns.td_errors, y, y(0));
    root.append(path("advantage", broken(columns.advantages, steps), view.x, y));
  }
  if (!panels.length) return;
  const bottom = top - GAP;
  const numbers = steps.map((step) => step + 1);
  const stride = ticks(0, Math.max(count, 2), Math.max(2, Math.floor(inner / 90)))[1];
  let taken = -Infinity;
  numbers.forEach((token, i) => {
    if ((i === 0 || token % Math.max(1, stride) === 0 || i === count - 1) && view.x(i) - taken > 26) {
      root.append(svg("text", { x: view.x(i), y: bottom + 15, "text-anchor": "middle" }, token.toLocaleString("en")));
      taken = view.x(i);
    }
    if (i && token !== numbers[i - 1] + 1) {
      const between = (view.x(i) + view.x(i - 1)) / 2;
      root.append(svg("line", { class: "gap", x1: between, x2: between, y1: panels[0][0], y2: bottom }));
    }
  });
  root.append(svg("text", { x: width - 2, y: bottom + 15, "text-anchor": "end" }, "token"));
  root.append(svg("line", { class: "cursor", x1: view.x(view.at), x2: view.x(view.at), y1: panels[0][0], y2: bottom }));
  root.setAttribute("viewBox", `0 0 ${width} ${bottom + 20}`);
  root.setAttribute("height", bottom + 20);
  const hover = (event) => {
    const place = Math.floor(((event.clientX - root.getBoundingClientRect().left - LEFT) / inner) * count);
    if (place >= 0 && place < count && place !== view.at) moveTo(view, place);
  };
  root.addEventListener("pointermove", hover);
  root.addEventListener("pointerdown", hover);
  figure.replaceChildren(root);
  if (!columns.td_errors) {
    figure.append(el("p", { class: "note" }, "TD errors and advantages hang on the value behind its last token, which only the learner knows."));
  }
  drawn.add(figure);
}

/** The values with a hole in front of each token that does not follow on the one before. */
function broken(values, steps) {
  return values.map((value, i) => (i && steps[i] !== steps[i - 1] + 1 ? null : value));
}

// --- all together ------------------------------------------------------------------------------------------------------

function draw() {
  if (!run()) state.run = 0;
  if (state.other === state.run || !other()) state.other = -1;
  const snapshot = snapshotOf(run());
  const beside = other() && snapshot ? snapshotBeside(snapshot) : undefined;
  drawn.clear();
  drawControls(snapshot);
  drawKinds([...(snapshot?.responses ?? []), ...(beside?.responses ?? [])]);
  drawRates(snapshot, beside);
  drawList(snapshot, beside);
  writeAddress();
}

function change(changes) {
  Object.assign(state, changes);
  draw();
}

function step(by) {
  const snapshots = run().snapshots;
  change({ at: key(snapshots[snapshots.indexOf(snapshotOf(run())) + by]) });
}

async function follow() {
  for (;;) {
    await new Promise((done) => setTimeout(done, POLL_MS));
    try {
      const answer = await fetch(`data.json?have=${encodeURIComponent(data.version)}`);
      if (answer.status === 200) {
        const { at } = state;
        state.at = "";
        const newest = snapshotOf(run());
        if (at !== "" && newest && at !== key(newest)) state.at = at;
        data = await answer.json();
        const place = scrollY;
        draw();
        scrollTo(0, place);
      }
      byId("status").textContent = answer.ok ? "follows the run" : `cannot follow the run: ${answer.status}`;
    } catch {
      byId("status").textContent = "does not follow the run any more: the server is gone";
    }
  }
}

readAddress();
options(byId("sort"), SORTS, state.sort);
options(byId("colour"), COLOURS, state.colour);
byId("run").addEventListener("change", (event) => {
  const chosen = Number(event.target.value);
  change({ run: chosen, other: chosen === state.other ? state.run : state.other }); // the two change places
});
byId("other").addEventListener("change", (event) => change({ other: Number(event.target.value) }));
byId("snapshot").addEventListener("change", (event) => change({ at: event.target.value }));
byId("earlier").addEventListener("click", () => step(-1));
byId("later").addEventListener("click", () => step(1));
byId("show").addEventListener("change", (event) => change({ show: event.target.value }));
byId("sort").addEventListener("change", (event) => change({ sort: event.target.value }));
byId("colour").addEventListener("change", (event) => change({ colour: event.target.value }));
byId("together").addEventListener("change", (event) => change({ together: Number(event.target.checked) }));
addEventListener("hashchange", () => { Object.assign(state, DEFAULTS); readAddress(); draw(); });
let width = innerWidth;
addEventListener("resize", () => {
  if (innerWidth === width) return; // a phone's address bar comes and goes
  width = innerWidth;
  for (const figure of [...drawn]) drawChart(views.get(figure));
});
draw();
if (live) follow();
