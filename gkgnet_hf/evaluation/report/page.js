"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const byId = (id) => document.getElementById(id);
const rows = [...document.querySelectorAll("#label-table tbody tr")];
const chosen = data.labels.map(() => null); // a step of the threshold, or null for the model's own
let selected = 0;
document.documentElement.classList.add("scripted");

const percent = (value) => (Number.isFinite(value) ? (100 * value).toFixed(1) : "–");
const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;
const harmonic = (a, b) => (a + b > 0 ? (2 * a * b) / (a + b) : a + b);

// What thresholds 0 to 1 predict: the counts of a histogram from each step on.
function fromStepOn(counts) {
  const sums = counts.slice();
  for (let step = sums.length - 2; step >= 0; step--) sums[step] += sums[step + 1];
  return sums;
}
const hitsFrom = data.positives.map(fromStepOn);
const wrongFrom = data.negatives.map(fromStepOn);

function decisions(label) {
  const step = chosen[label];
  const hits = step === null ? data.hits[label] : hitsFrom[label][step];
  const predicted = step === null ? data.predicted[label] : hits + wrongFrom[label][step];
  const support = data.support[label];
  return {
    hits, predicted, support,
    precision: predicted ? hits / predicted : 0,
    recall: support ? hits / support : NaN,
    f1: support ? (2 * hits) / (predicted + support) : NaN,
  };
}

function showLabel(label) {
  const row = rowOf[label];
  const found = decisions(label);
  const cells = row.querySelectorAll("td");
  cells[3].textContent = percent(found.precision);
  cells[4].textContent = percent(found.recall);
  cells[5].textContent = percent(found.f1);
  const step = chosen[label];
  const threshold = step === null ? data.thresholds[label] : step / data.steps;
  const slider = row.querySelector("input");
  slider.value = Math.round(threshold * data.steps);
  slider.setAttribute("aria-valuetext", threshold.toFixed(3));
  row.querySelector("output").textContent = threshold.toFixed(3);
}

function showOverall() {
  const all = data.labels.map((_, label) => decisions(label));
  const counted = all.filter((found) => found.support > 0);
  const sum = (name) => all.reduce((total, found) => total + found[name], 0);
  const [cp, cr] = [mean(counted.map((found) => found.precision)), mean(counted.map((found) => found.recall))];
  const [op, or] = [sum("hits") / Math.max(sum("predicted"), 1), sum("hits") / sum("support")];
  const values = { CP: cp, CR: cr, CF1: harmonic(cp, cr), OP: op, OR: or, OF1: harmonic(op, or) };
  byId("live").textContent =
    "At the thresholds below: " + Object.entries(values).map(([name, value]) => `${name} ${percent(value)}`).join(", ");
}

function showAll() {
  data.labels.forEach((_, label) => showLabel(label));
  showOverall();
  showCurves();
}

// The chosen label's lines in matplotlib's axes.
function draw(name, points) {
  const [left, top, width, height] = data.frames[name];
  const place = ([x, y]) => `${(left + x * width).toFixed(2)} ${(top + (1 - y) * height).toFixed(2)}`;
  const path = (id, d) => document.querySelector(`#${id} path`).setAttribute("d", d);
  path(`${name}-line`, points.length ? "M" + points.map(place).join("L") : "M0 0");
  return (dots) => path(`${name}-dots`, dots.length ? dots.map((dot) => `M${place(dot)}h0`).join("") : "M0 0");
}

function showCurves() {
  if (!data.labels.length) return;
  const found = decisions(selected);
  const operating = found.support && found.predicted ? [[found.recall, found.precision]] : [];
  draw("curve", data.curves[selected])(operating);
  draw("calibration", data.calibrations[selected])(data.calibrations[selected]);
  const error = data.errors[selected];
  byId("chosen").textContent =
    `${data.support[selected].toLocaleString("en")} positive images; precision ${percent(found.precision)}, ` +
    `recall ${percent(found.recall)} at its threshold; calibration error ${error === null ? "–" : percent(error)} points`;
}

function choose(label) {
  selected = label;
  byId("label").value = label;
  showCurves();
}

function bestStep(label) {
  let [best, highest] = [null, -1];
  for (let step = data.steps; step >= 0; step--) {
    const hits = hitsFrom[label][step];
    const f1 = (2 * hits) / (hits + wrongFrom[label][step] + data.support[label]);
    if (f1 > highest) [best, highest] = [step, f1];
  }
  return data.support[label] ? best : null;
}

const values = {
  name: (row) => data.labels[row.dataset.label].toLowerCase(),
  ap: (row) => parseFloat(row.querySelector(".value").textContent),
  positives: (row) => data.support[row.dataset.label],
  f1: (row) => decisions(row.dataset.label).f1,
};

function sortBy(button) {
  const head = button.closest("th");
  const up = head.getAttribute("aria-sort") === "descending" || (!head.hasAttribute("aria-sort") && button.dataset.sort === "name");
  document.querySelectorAll("[aria-sort]").forEach((other) => other.removeAttribute("aria-sort"));
  head.setAttribute("aria-sort", up ? "ascending" : "descending");
  const value = values[button.dataset.sort];
  const undefinedLast = (v) => typeof v === "number" && Number.isNaN(v);
  const sorted = rows.map((row) => [value(row), row]).sort(([a], [b]) => {
    if (undefinedLast(a) || undefinedLast(b)) return undefinedLast(a) - undefinedLast(b);
    return (a < b ? -1 : a > b ? 1 : 0) * (up ? 1 : -1);
  });
  document.querySelector("#label-table tbody").append(...sorted.map(([, row]) => row));
}

const rowOf = [];
rows.forEach((row) => {
  const label = Number(row.dataset.label);
  rowOf[label] = row;
  row.querySelector("input").addEventListener("input", (event) => {
    chosen[label] = Number(event.target.value);
    showLabel(label);
    showOverall();
    choose(label);
  });
  row.querySelector(".choose").addEventListener("click", () => choose(label));
});

if (rows.length) {
  byId("all").addEventListener("input", (event) => {
    chosen.fill(Number(event.target.value));
    byId("all-value").textContent = (event.target.value / data.steps).toFixed(3);
    showAll();
  });
  byId("reset").addEventListener("click", () => {
    chosen.fill(null);
    byId("all-value").textContent = "–";
    showAll();
  });
  byId("best").addEventListener("click", () => {
    data.labels.forEach((_, label) => { chosen[label] = bestStep(label); });
    byId("all-value").textContent = "–";
    showAll();
  });
  byId("find").addEventListener("input", (event) => {
    const words = event.target.value.toLowerCase();
    rows.forEach((row) => { row.hidden = !data.labels[row.dataset.label].toLowerCase().includes(words); });
  });
  document.querySelectorAll("[data-sort]").forEach((button) => button.addEventListener("click", () => sortBy(button)));
  byId("label").addEventListener("change", (event) => choose(Number(event.target.value)));
  showOverall();
  choose(0);
}
const heat = byId("heat");
if (heat) heat.addEventListener("change", () => byId("pictures").classList.toggle("no-heat", !heat.checked));
