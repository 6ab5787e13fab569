"use strict";
// The page only contacts this server's API.

const Z90 = 1.645, SHOWN = 12, DOSES = 9, WAIT_MS = 250;
const $ = (id) => document.getElementById(id);
const state = { query: null, answer: null, gene: null, asked: 0, drawn: 0 };

class Refusal extends Error {
  constructor(message, errors) { super(message); this.errors = errors; }
}

async function ask(path, body) {
  const options = body && { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) };
  let response;
  try { response = await fetch(path, options); } catch { throw new Refusal("The server cannot be reached.", []); }
  const answer = await response.json().catch(() => ({}));
  if (!response.ok) {
    const busy = response.status === 503 || response.status === 429;
    throw new Refusal(busy ? "The server is busy. Please try again in a moment." : answer.detail || `The server answered ${response.status}.`,
      answer.errors || []);
  }
  return answer;
}

function number(text) {
  const value = Number(text.trim().replace(",", "."));
  return text.trim() !== "" && Number.isFinite(value) ? value : null;
}

function readQuery() {
  return { smiles: $("smiles").value.trim(), cell: $("cell").value, dose_um: number($("dose").value), time_h: number($("time").value) };
}

function checked(query) {
  const wrong = [];
  if (!query.smiles) wrong.push(["smiles", "Enter a compound as SMILES."]);
  if (!(query.dose_um > 0)) wrong.push(["dose", "The dose must be a number above 0, in µM."]);
  if (!(query.time_h > 0)) wrong.push(["time", "The time must be a number above 0, in hours."]);
  for (const id of ["smiles", "cell", "dose", "time"]) $(id).setAttribute("aria-invalid", String(wrong.some(([name]) => name === id)));
  if (wrong.length) { show(wrong.map(([, text]) => text).join(" ")); $(wrong[0][0]).focus(); }
  return wrong.length === 0;
}

function show(message) { $("error").hidden = !message; $("error").textContent = message || ""; }

async function draw() {
  const mine = ++state.drawn, smiles = $("smiles").value.trim();
  if (!smiles) { $("drawing").removeAttribute("src"); $("caption").textContent = ""; return; }
  try {
    const compound = await ask(`v1/compounds/${encodeURIComponent(smiles)}`);
    if (mine !== state.drawn) return;
    $("drawing").src = `data:image/svg+xml;utf8,${encodeURIComponent(compound.drawing)}`;
    $("drawing").alt = `structure of ${compound.smiles}`;
    const near = compound.known ? "in the training data" : `similarity ${compound.similarity.toFixed(2)} to the nearest training compound`;
    const rest = compound.left_out.length ? `left out ${compound.left_out.join(" and ")}` : "";
    $("caption").textContent = [compound.parent_smiles, near, rest, compound.flag].filter(Boolean).join(" · ");
  } catch (error) {
    if (mine !== state.drawn) return;
    $("drawing").removeAttribute("src");
    $("caption").textContent = error.errors && error.errors.length ? "Not a molecule yet." : error.message;
  }
}

async function predict() {
  const query = readQuery();
  show("");
  if (!checked(query)) return;
  const mine = ++state.asked;
  $("go").disabled = true;
  try {
    const answer = await ask("v1/predict", { conditions: [query] });
    if (mine !== state.asked) return;
    Object.assign(state, { query, answer });
    history.replaceState(null, "", linkOf(query));
    render();
  } catch (error) {
    if (mine !== state.asked) return;
    $("result").hidden = true;
    show(error.message);
    const field = (error.errors[0] || { field: "" }).field.split(".").pop();
    const input = $({ dose_um: "dose", time_h: "time" }[field] || field);
    if (input) { input.setAttribute("aria-invalid", "true"); input.focus(); }
  } finally {
    if (mine === state.asked) $("go").disabled = false;
  }
}

function linkOf(query) { return `?${new URLSearchParams(query)}`; }

function changes() {
  const { genes, predictions: [row] } = state.answer;
  return genes.map((gene, i) => ({ gene, delta: row.mean[i] - row.basal[i], sd: row.std[i], mean: row.mean[i], basal: row.basal[i] }));
}

function render() {
  const { query, answer } = state, [row] = answer.predictions, all = changes();
  $("result").hidden = false;
  $("domain").hidden = !row.out_of_domain;
  $("domain").textContent = `Outside the training data: ${row.notes}.`;
  $("title").textContent = `${row.parent_smiles} on ${query.cell}, ${query.dose_um} µM, ${query.time_h} h`;
  $("link").href = linkOf(query);
  const ranked = [...all].sort((a, b) => b.delta - a.delta);
  const up = ranked.slice(0, SHOWN), down = ranked.slice(-SHOWN);
  const reach = Math.max(...[...up, ...down].map((g) => Math.abs(g.delta) + Z90 * g.sd));
  $("genes").replaceChildren(...up.map((g) => geneRow(g, reach)), Object.assign(document.createElement("hr"), { className: "gap" }),
    ...down.map((g) => geneRow(g, reach)));
  volcano(all);
  choose(all.some((g) => g.gene === state.gene) ? state.gene : up[0].gene);
}

function geneRow(g, reach) {
  const button = document.createElement("button"), at = (value) => 50 + (48 * value) / reach;
  button.type = "button"; button.className = "gene"; button.dataset.gene = g.gene;
  const colour = g.delta >= 0 ? "var(--up)" : "var(--down)";
  const [low, high] = [at(g.delta - Z90 * g.sd), at(g.delta + Z90 * g.sd)];
  button.innerHTML = '<span class="name"></span><svg viewBox="0 0 100 16" preserveAspectRatio="none" aria-hidden="true">' +
    '<line x1="50" x2="50" y1="0" y2="16" stroke="#c3ccd4" vector-effect="non-scaling-stroke"/>' +
    `<rect x="${Math.min(50, at(g.delta))}" width="${Math.abs(at(g.delta) - 50)}" y="4" height="8" fill="${colour}"/>` +
    `<line x1="${low}" x2="${high}" y1="8" y2="8" stroke="#44505b" vector-effect="non-scaling-stroke"/></svg><span class="value"></span>`;
  button.querySelector(".name").textContent = g.gene;
  button.querySelector(".value").textContent = `${g.delta >= 0 ? "+" : "−"}${Math.abs(g.delta).toFixed(2)} ±${(Z90 * g.sd).toFixed(1)}`;
  button.setAttribute("aria-label", `${g.gene}: change ${g.delta.toFixed(2)}, plus or minus ${(Z90 * g.sd).toFixed(2)}`);
  button.addEventListener("click", () => choose(g.gene));
  return button;
}

function plot(id, options, data) {
  const box = $(id);
  box.replaceChildren();
  return new uPlot({ width: Math.max(240, box.clientWidth - 12), height: 240, legend: { show: false }, ...options }, data, box);
}

function volcano(all) {
  const sorted = [...all].sort((a, b) => a.delta - b.delta);
  const chart = plot("volcano", {
    scales: { x: { time: false }, y: {} },
    axes: [{ label: "change, log2" }, { label: "|change| / sd of a well", size: 60 }],
    cursor: { drag: { x: false, y: false }, points: { size: 8 } },
    series: [{}, { paths: () => null, points: { show: true, size: 4, fill: "#5b6875", stroke: "#5b6875" } }],
    hooks: { setCursor: [(u) => { u.root.title = u.cursor.idx == null ? "" : sorted[u.cursor.idx].gene; }] },
  }, [sorted.map((g) => g.delta), sorted.map((g) => Math.abs(g.delta) / g.sd)]);
  chart.over.addEventListener("click", () => { if (chart.cursor.idx != null) choose(sorted[chart.cursor.idx].gene); });
}

async function choose(gene) {
  state.gene = gene;
  for (const row of document.querySelectorAll(".gene")) row.setAttribute("aria-pressed", String(row.dataset.gene === gene));
  $("dose-title").textContent = `Dose response of ${gene}`;
  const { query } = state;
  const doses = Array.from({ length: DOSES }, (_, i) => query.dose_um * 10 ** ((i - (DOSES - 1) / 2) / 2));
  try {
    const answer = await ask("v1/predict", { conditions: doses.map((dose_um) => ({ ...query, dose_um })), genes: [gene] });
    if (state.gene !== gene || state.query !== query) return;
    const rows = answer.predictions, delta = rows.map((r) => r.mean[0] - r.basal[0]), sd = rows.map((r) => r.std[0]);
    plot("doses", {
      scales: { x: { time: false, distr: 3 } },
      axes: [{ label: "dose, µM" }, { label: "change, log2", size: 60 }],
      cursor: { drag: { x: false, y: false } },
      series: [{}, { stroke: "#0b6b5d", width: 2, points: { show: true, size: 6 } }, { stroke: "#9ab" }, { stroke: "#9ab" }],
      bands: [{ series: [2, 3], fill: "rgba(11,107,93,0.12)" }],
    }, [doses, delta, delta.map((d, i) => d + Z90 * sd[i]), delta.map((d, i) => d - Z90 * sd[i])]);
  } catch (error) { $("doses").textContent = error.message; }
}

function csv() {
  const lines = ["gene,control_log2,predicted_log2,change_log2,sd_log2"];
  for (const g of changes()) lines.push([g.gene, g.basal, g.mean, g.delta, g.sd].join(","));
  return URL.createObjectURL(new Blob([lines.join("\n") + "\n"], { type: "text/csv" }));
}

async function start() {
  const given = new URLSearchParams(location.search);
  try {
    const [cells, model] = await Promise.all([ask("v1/cells"), ask("v1/model")]);
    $("cell").replaceChildren(...cells.map(({ cell }) => new Option(cell, cell)));
    const simulated = model.trained_on.simulated ? " Trained on simulated data; the genes are made up." : "";
    $("about").textContent = `${model.n_genes} genes with uncertainty, predicted by model ${model.model}, trained on ` +
      `${model.trained_on.n_profiles.toLocaleString("en")} profiles.${simulated}`;
  } catch (error) { show(error.message); return; }
  for (const [name, id] of [["smiles", "smiles"], ["cell", "cell"], ["dose_um", "dose"], ["time_h", "time"]]) {
    if (given.get(name)) $(id).value = given.get(name);
  }
  draw();
  if (given.get("smiles")) predict();
}

let waiting;
$("smiles").addEventListener("input", () => { clearTimeout(waiting); waiting = setTimeout(draw, WAIT_MS); });
for (const button of document.querySelectorAll("[data-smiles]")) {
  button.addEventListener("click", () => { $("smiles").value = button.dataset.smiles; draw(); $("smiles").focus(); });
}
$("query").addEventListener("submit", (event) => { event.preventDefault(); predict(); });
$("csv").addEventListener("click", (event) => { event.target.href = csv(); event.target.download = "prediction.csv"; });
let resizing;
addEventListener("resize", () => { clearTimeout(resizing); resizing = setTimeout(() => state.answer && render(), 200); });
start();
