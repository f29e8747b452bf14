"use strict";
// Interactive charts, highlighting, sorting and filtering of the report page. Without it the page is complete but static.

const all = (selector, root = document) => [...root.querySelectorAll(selector)];
const table = document.getElementById("comparison");
const picker = document.getElementById("picker");
const family = document.getElementById("family");
const printed = document.getElementById("printed");
const picked = new Set();
const views = [];
document.documentElement.classList.add("js");

// Highlighting: `what` is a model, or "family:" and its name; the same a second time, or "", ends it.
function pick(what) {
  picker.value = picker.value === what ? "" : what;
  const name = picker.value.replace("family:", "");
  const members = name === picker.value ? [name] : all("tbody", table).filter((b) => b.dataset.family === name).map((b) => b.dataset.model);
  picked.clear();
  if (name) members.forEach((model) => picked.add(model));
  for (const element of all("[data-model]")) {
    element.classList.toggle("picked", picked.has(element.dataset.model));
    element.classList.toggle("dim", picked.size > 0 && !picked.has(element.dataset.model));
  }
  for (const button of all("[data-pick]")) button.setAttribute("aria-pressed", picker.value !== "" && button.dataset.pick === picker.value);
  for (const view of views) view.signal("picked", [...picked]).runAsync();
}

picker.addEventListener("change", () => {
  const what = picker.value;
  picker.value = "";
  pick(what);
});
document.addEventListener("click", (event) => {
  const button = event.target.closest("[data-pick]");
  if (button) pick(button.dataset.pick);
});

// Charts: the static picture is replaced when it is about to come into view.
const config = JSON.parse(document.getElementById("config").textContent);

async function draw(figure) {
  const box = figure.querySelector(".view");
  const spec = JSON.parse(figure.querySelector("script").textContent);
  box.style.minHeight = `${box.clientHeight}px`; // the page does not jump
  const { view } = await vegaEmbed(box, spec, { ast: true, renderer: "svg", actions: false, config, tooltip: { theme: "page" } });
  box.style.minHeight = "";
  view.addEventListener("click", (event, item) => {
    // the datum of the nearest point is one level deeper
    const model = item?.datum?.model ?? item?.datum?.datum?.model;
    if (model) pick(model);
  });
  views.push(view);
  if (picked.size) view.signal("picked", [...picked]).runAsync();
  figure.classList.add("live");
}

const observer = new IntersectionObserver(
  (entries) => {
    for (const entry of entries.filter((e) => e.isIntersecting)) {
      observer.unobserve(entry.target);
      draw(entry.target);
    }
  },
  { rootMargin: "300px" },
);
all(".chart").forEach((figure) => observer.observe(figure));

// Table
function number(body, column) {
  const cell = body.rows[0].cells[column];
  return parseFloat(cell.dataset.value ?? cell.textContent);
}

function sort(header) {
  const column = header.cellIndex;
  const first = header.dataset.better === "higher" ? "descending" : "ascending";
  const before = header.getAttribute("aria-sort");
  const order = before === null ? first : before === "ascending" ? "descending" : "ascending";
  const sign = order === "ascending" ? 1 : -1;
  const text = (body) => body.rows[0].cells[0].textContent;
  const byName = (a, b) => text(a).localeCompare(text(b));
  const compare = (a, b) => {
    if (column === 0) return sign * byName(a, b);
    const [x, y] = [number(a, column), number(b, column)];
    // a model without a result comes last in both orders
    if (isNaN(x) || isNaN(y)) return isNaN(x) - isNaN(y) || byName(a, b);
    return sign * (x - y) || byName(a, b);
  };
  all("th[aria-sort]", table).forEach((other) => other.removeAttribute("aria-sort"));
  header.setAttribute("aria-sort", order);
  table.append(...[...table.tBodies].sort(compare));
}

function filter() {
  for (const body of table.tBodies) body.hidden = family.value !== "" && body.dataset.family !== family.value;
  table.classList.toggle("unprinted", !printed.checked);
}

for (const header of all("th[data-better]", table)) header.querySelector("button").addEventListener("click", () => sort(header));
family.addEventListener("change", filter);
printed.addEventListener("change", filter);
filter();

// on a phone the table comes first
if (innerWidth < 560) document.querySelector(".signs").open = false;

// Rows as shown: header, then visible ones; numbers with all their digits if `exact`.
function shownRows(exact) {
  const content = (cell) => (exact && cell.dataset.value) || cell.textContent.trim().replace(/\s+/g, " ");
  const rows = all("tr", table).filter((row) => row.offsetParent !== null);
  return rows.map((row) => [...row.cells].map(content));
}

document.getElementById("csv").addEventListener("click", (event) => {
  const text = shownRows(true).map((row) => row.map((v) => (/[",]/.test(v) ? `"${v.replaceAll('"', '""')}"` : v)).join(",") + "\n");
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob(text, { type: "text/csv" }));
  link.download = event.target.dataset.name;
  link.click();
  URL.revokeObjectURL(link.href);
});

document.getElementById("copy").addEventListener("click", async (event) => {
  const text = shownRows(false).map((row) => row.join("\t")).join("\n");
  // browsers have no clipboard on pages that came over plain HTTP
  const writing = navigator.clipboard ? navigator.clipboard.writeText(text) : Promise.reject();
  const done = await writing.then(() => "Copied", () => "Not allowed here");
  event.target.textContent = done;
  setTimeout(() => (event.target.textContent = "Copy"), 1500);
});

// A link into closed details opens them, in browsers that do not do so themselves.
function reveal() {
  const target = document.getElementById(location.hash.slice(1));
  if (!target) return;
  for (let d = target.closest("details"); d; d = d.parentElement.closest("details")) d.open = true;
  target.scrollIntoView();
}
addEventListener("hashchange", reveal);
reveal();
