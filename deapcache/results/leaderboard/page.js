"use strict";
// Everything shown is written as text (textContent, createElement): a result may come from a stranger.
const DATA = JSON.parse(document.getElementById("data").textContent);
const SVG = "http://www.w3.org/2000/svg";

function make(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

function draw(name, attributes = {}, text = "") {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.textContent = text;
  return made;
}

// Sorting: what is unknown stays at the end, whichever way a column is sorted.
function sortBy(head) {
  const row = head.parentElement, place = [...row.children].indexOf(head);
  const body = head.closest("table").tBodies[0], numbers = head.classList.contains("n");
  const first = numbers && !head.textContent.includes("↓") ? "descending" : "ascending";
  const other = { ascending: "descending", descending: "ascending" };
  const now = head.getAttribute("aria-sort");
  const order = now ? other[now] : first;
  for (const cell of row.children) cell.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", order);
  const sign = order === "ascending" ? 1 : -1;
  const value = (line) => line.children[place].dataset.v;
  const compare = (a, b) => (numbers ? Number(a) - Number(b) : a.localeCompare(b, "en", { numeric: true }));
  const lines = [...body.rows].sort((left, right) => {
    const [a, b] = [value(left), value(right)];
    if (a === "" || b === "") return (a === "") - (b === "");
    return sign * compare(a, b);
  });
  body.append(...lines);
}

// Filters: a row is shown if it fits; of a board's cells only those of the chosen protocol, and no empty column.
const form = document.getElementById("filters");

function wanted() {
  const data = new FormData(form);
  return {
    words: data.get("text").toLowerCase().split(/\s+/).filter(Boolean),
    categories: new Set(data.getAll("category")),
    protocol: data.get("protocol"),
    paper: data.has("paper"),
  };
}

function fits(row, ask) {
  const { category, source, text } = row.dataset;
  const measured = [...row.querySelectorAll("[data-protocol]")];
  return ask.categories.has(category) && (ask.paper || source !== "paper")
    && ask.words.every((word) => text.includes(word))
    && (!ask.protocol || measured.some((cell) => cell.dataset.protocol === ask.protocol));
}

function filterTable(table, ask) {
  let shown = 0;
  for (const row of table.tBodies[0].rows) {
    row.hidden = !fits(row, ask);
    shown += !row.hidden;
  }
  if (table.classList.contains("board")) hideColumns(table, ask);
  table.closest("section").hidden = shown === 0;
  return shown;
}

function hideColumns(table, ask) {
  [...table.tHead.rows[0].children].forEach((head, place) => {
    if (!head.dataset.comparison) return;
    const cells = [...table.tBodies[0].rows].map((row) => row.children[place]);
    const left = cells.filter((cell) => !cell.parentElement.hidden && cell.dataset.protocol !== undefined
      && (!ask.protocol || cell.dataset.protocol === ask.protocol));
    for (const cell of [head, ...cells]) cell.hidden = left.length === 0;
  });
}

// The column of speeds is of one device; numbers of different devices say nothing about each other.
function showDevice() {
  const choice = form.elements.device;
  if (!choice) return;
  for (const name of document.querySelectorAll("[data-device]")) name.textContent = choice.selectedOptions[0].textContent;
  for (const cell of document.querySelectorAll("[data-speeds]")) {
    const value = JSON.parse(cell.dataset.speeds)[choice.value];
    cell.dataset.v = value ?? "";
    cell.textContent = value === null ? "–" : String(Number(value.toPrecision(3)));
  }
}

function applyFilters() {
  const ask = wanted();
  showDevice();
  let shown = 0, all = 0;
  for (const table of document.querySelectorAll("table.board, table.task")) {
    const found = filterTable(table, ask);
    if (table.classList.contains("task")) {
      shown += found;
      all += table.tBodies[0].rows.length;
    }
  }
  const links = document.querySelectorAll(".tasks a");
  for (const link of links) {
    link.parentElement.hidden = document.getElementById(link.hash.slice(1)).closest("section").hidden;
  }
  document.getElementById("by-task").closest("section").hidden = shown === 0;
  document.getElementById("nothing").hidden = shown > 0;
  form.elements.count.value = `${shown} of ${all} scores shown`;
}

// The panel of an entry.
const panel = document.getElementById("panel");

function facts(pairs) {
  const list = make("dl");
  for (const [name, value] of pairs) if (value) list.append(make("dt", {}, name), make("dd", {}, value));
  return list;
}

function scoreTable(entry) {
  const head = make("tr", {}, ...entry.score_heads.map((name) => make("th", { scope: "col" }, name)));
  const rows = entry.scores.map(([name, ...cells]) =>
    make("tr", {}, make("th", { scope: "row" }, name), ...cells.map((text) => make("td", {}, text))));
  const table = make("table", {}, make("thead", {}, head), make("tbody", {}, ...rows));
  return make("div", { class: "scroll plain", role: "region", tabindex: "0", "aria-label": "All scores" }, table);
}

// Each head's mask as the circle of radius σ around an image's centre; the image's longer side is 1.
function sigmaPlot(sigma, aspect) {
  const step = 84, across = Math.min(sigma.length, 4), rows = Math.ceil(sigma.length / across);
  const [wide, high] = aspect > 1 ? [70 / aspect, 70] : [70, 70 * aspect];
  const label = `Learned reach σ of ${sigma.length} heads, as a share of the image's longer side: `
    + sigma.map((value) => value.toFixed(3)).join(", ");
  const size = `0 0 ${across * step} ${rows * (high + 26)}`;
  const plot = draw("svg", { class: "plot heads", role: "img", viewBox: size, "aria-label": label });
  sigma.forEach((value, head) => {
    const left = (head % across) * step + (74 - wide) / 2, top = Math.floor(head / across) * (high + 26) + 2;
    const frame = draw("svg", { x: left, y: top, width: wide, height: high, viewBox: `0 0 ${wide} ${high}` });
    const radius = Math.max(0, Math.min(value, 2)) * 70;
    frame.append(draw("rect", { class: "head", x: .5, y: .5, width: wide - 1, height: high - 1 }),
      draw("circle", { class: "reach", cx: wide / 2, cy: high / 2, r: radius }));
    plot.append(frame, draw("text", { x: left + wide / 2, y: top + high + 15, "text-anchor": "middle" }, value.toFixed(3)));
  });
  return plot;
}

function curvePlot(loss) {
  const [width, height, left, low, high] = [420, 236, 52, 192, 30];
  const losses = loss.map((point) => point[1]), steps = loss.map((point) => point[0]);
  const [least, most] = [Math.min(...losses), Math.max(...losses)], last = steps[steps.length - 1];
  const x = (step) => left + (step / (last || 1)) * (width - left - 28);
  const y = (value) => low - ((value - least) / (most - least || 1)) * (low - high);
  const label = `Training loss over ${last} iterations: from ${losses[0].toFixed(4)} to ${losses[losses.length - 1].toFixed(4)}`;
  const plot = draw("svg", { class: "plot", role: "img", viewBox: `0 0 ${width} ${height}`, "aria-label": label });
  const path = loss.map(([step, value], at) => `${at ? "L" : "M"}${x(step).toFixed(1)} ${y(value).toFixed(1)}`).join("");
  const text = (at, height, side, words) => draw("text", { x: at, y: height, "text-anchor": side }, words);
  plot.append(draw("path", { class: "axis", d: `M${left} ${high - 8}V${low + 6}H${width - 20}` }),
    draw("path", { class: "curve", d: path }), text(left, 14, "middle", "loss"),
    text(left - 6, y(most) + 4, "end", most.toPrecision(3)), text(left - 6, y(least) + 4, "end", least.toPrecision(3)),
    text(left, low + 22, "middle", "0"), text(x(last), low + 22, "middle", String(last)),
    text((left + width) / 2, low + 38, "middle", "iterations"));
  return plot;
}

function commandBlock(text) {
  const code = make("pre", { tabindex: "0" }, text);
  const button = make("button", { type: "button" }, "Copy"), said = make("span", { role: "status" });
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(text);
      said.textContent = " copied";
    } catch {
      getSelection().selectAllChildren(code);
      said.textContent = " selected: copy it with the keyboard";
    }
  });
  return [code, button, said];
}

function runPart(run, only) {
  const part = make("details", only ? { open: "" } : {}, make("summary", {}, `Seed ${run.seed}: ${run.score}`));
  part.dataset.run = run.run;
  part.append(facts([["run", run.run], ...run.facts]));
  if (run.picture.startsWith("data:image/")) {
    const text = "The first validation images with target, prediction and errors, as far as the run has drawn them";
    part.append(make("h4", {}, "Predictions"), make("img", { src: run.picture, alt: text, loading: "lazy" }));
  } else if (run.no_picture) {
    part.append(make("p", { class: "sub" }, run.no_picture));
  }
  if (run.sigma.length) part.append(make("h4", {}, "Learned reach σ of each attention head"), sigmaPlot(run.sigma, run.aspect));
  if (run.loss.length > 1) part.append(make("h4", {}, "Training curve"), curvePlot(run.loss));
  part.append(make("h4", {}, "Repeat it"));
  if (run.repeat.length) part.append(...commandBlock(run.repeat.join("\n")));
  if (run.recorded) {
    part.append(make("p", { class: "sub" }, "As it was typed, perhaps for other runs too:"), make("pre", { tabindex: "0" }, run.recorded));
  }
  if (!run.repeat.length && !run.recorded) {
    part.append(make("p", { class: "sub" }, "It was made from Python; the protocol below says with what."));
  }
  return part;
}

function fill(entry) {
  document.getElementById("panel-title").textContent = entry.title;
  const body = document.getElementById("panel-body");
  body.replaceChildren(make("p", { class: "sub" }, entry.subtitle), scoreTable(entry), facts(entry.facts));
  if (entry.runs.length) body.append(make("h3", {}, entry.runs.length > 1 ? "Runs" : "Run"));
  entry.runs.forEach((run, place) => body.append(runPart(run, place === 0)));
  if (entry.documents.length) body.append(make("h3", {}, "Identity"));
  for (const [title, text] of entry.documents) {
    body.append(make("details", {}, make("summary", {}, title), make("pre", { tabindex: "0" }, text)));
  }
}

function show(key, run = "") {
  if (!Object.hasOwn(DATA, key)) return;
  fill(DATA[key]);
  if (!panel.open) panel.showModal();
  panel.scrollTop = 0;
  document.getElementById("panel-title").focus();
  for (const part of panel.querySelectorAll("details[data-run]")) {
    if (run) part.open = part.dataset.run === run;
  }
}

// An address ends in #entry-KEY or #run-NAME, so that a panel can be linked to.
function follow() {
  const hash = decodeURIComponent(location.hash.slice(1));
  if (hash.startsWith("entry-")) show(hash.slice(6));
  const run = hash.startsWith("run-") ? hash.slice(4) : "";
  const found = run && Object.keys(DATA).find((key) => DATA[key].runs.some((one) => one.run === run));
  if (found) show(found, run);
}

document.addEventListener("click", (event) => {
  const opener = event.target.closest("[data-entry]");
  if (opener) {
    show(opener.dataset.entry);
    history.replaceState(null, "", `#entry-${opener.dataset.entry}`);
  }
  const head = event.target.closest("thead th[scope=col]");
  if (head && head.closest("main")) sortBy(head);
  if (event.target === panel || event.target.closest(".close")) panel.close();
});
panel.addEventListener("close", () => history.replaceState(null, "", location.pathname + location.search));
for (const event of ["input", "change"]) form.addEventListener(event, applyFilters);
form.addEventListener("submit", (event) => event.preventDefault());
form.addEventListener("reset", () => setTimeout(applyFilters));
addEventListener("hashchange", follow);
form.hidden = false;
applyFilters();
follow();
