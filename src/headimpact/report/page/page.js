"use strict";

// 12, 1,024, -0.4, 3.6e-9, 3.02 ± 0.03, 0.4 (0.1 to 0.7): the number that comes first; null where there is none.
function leadingNumber(text) {
  const found = text.trim().match(/^([-+]?[\d,]*\.?\d+(?:e[-+]?\d+)?)%?(?:\s*[±(][^]*)?$/i);
  return found ? Number(found[1].replaceAll(",", "")) : null;
}

// Numbers before texts, texts in the order of a reader (top-4 before top-16), nothing last.
function compareTexts(a, b) {
  const [x, y] = [leadingNumber(a), leadingNumber(b)];
  if (x !== null && y !== null) return x - y;
  if (x !== null || y !== null) return x === null ? 1 : -1;
  return a.localeCompare(b, "en", { numeric: true });
}

// Row numbers in the order of their texts; what holds nothing comes last, up or down.
function sortedOrder(texts, descending) {
  const empty = (text) => ["", "missing"].includes(text.trim());
  return texts.map((_, index) => index).sort((i, j) => {
    if (empty(texts[i]) || empty(texts[j])) return empty(texts[i]) - empty(texts[j]);
    return (descending ? -1 : 1) * compareTexts(texts[i], texts[j]);
  });
}

function makeSortable(table) {
  const headers = [...table.tHead.rows[0].cells];
  const body = table.tBodies[0];
  const original = [...body.rows];
  // The text of a cell is its first line alone.
  const text = (row, column) => {
    const cell = row.cells[column];
    return (cell.querySelector("strong") ?? cell).firstChild?.textContent ?? "";
  };
  headers.forEach((header, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...header.childNodes);
    header.append(button);
    button.addEventListener("click", () => {
      const next = { none: "ascending", ascending: "descending", descending: "none" };
      const state = next[header.getAttribute("aria-sort") ?? "none"];
      headers.forEach((other) => other.removeAttribute("aria-sort"));
      if (state !== "none") header.setAttribute("aria-sort", state);
      const texts = original.map((row) => text(row, column));
      const order = state === "none" ? original.keys() : sortedOrder(texts, state === "descending");
      body.append(...[...order].map((index) => original[index]));
    });
  });
}

// null where the address is none of a web page.
function runLink(address, experiment, search) {
  if (!/^https?:\/\/\S+$/i.test(address.trim()) || !/^\d+$/.test(experiment.trim())) return null;
  const store = address.trim().replace(/[/#]+$/, "");
  return `${store}/#/experiments/${experiment.trim()}/runs?searchFilter=${encodeURIComponent(search)}`;
}

function followStore(form) {
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("input", () => {
    for (const link of document.querySelectorAll("a[data-search]")) {
      const href = runLink(form.elements.address.value, form.elements.experiment.value, link.dataset.search);
      if (href) link.setAttribute("href", href);
      else link.removeAttribute("href");
    }
  });
}

if (typeof document !== "undefined") {
  document.querySelectorAll("table").forEach(makeSortable);
  document.querySelectorAll("form.store").forEach(followStore);
}
