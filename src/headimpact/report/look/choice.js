// What can be chosen: radio buttons, and the grid of heads.

function make(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key === "class") element.className = value;
    else if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else element.setAttribute(key, value);
  }
  element.append(...children);
  return element;
}

// Three digits, the last of a tie even, as in Python's tables.
function told(number) {
  if (!Number.isFinite(number)) return "none";
  const low = Math.floor(1000 * number);
  return (1000 * number - low === 0.5 && low % 2 === 0 ? low / 1000 : number).toFixed(3);
}

const percent = (number) => (Number.isFinite(number) ? `${Number((100 * number).toPrecision(2))} %` : "none");
const oneLine = (text) => text.replace(/\s+/g, " ").trim() || "␣";

// Radio buttons in the box of a fieldset; the browser has the keys.
function radios(fieldset, items, chosen, choose) {
  const box = fieldset.querySelector("div");
  const named = [...box.children].map((label) => label.title).join("\n");
  if (named !== items.map((item) => item.name).join("\n")) {
    box.replaceChildren(
      ...items.map((item, index) => {
        const input = make("input", { type: "radio", name: fieldset.id, value: index });
        return make("label", { title: item.name }, input, item.content ?? make("span", {}, item.name));
      }),
    );
  }
  fieldset.onchange = (event) => choose(Number(event.target.value));
  const input = box.querySelectorAll("input")[chosen];
  if (!input) return;
  input.checked = true;
  showWithin(box, input.parentElement);
}

// Scrolls a box sideways, and nothing else, until an element in it is seen.
function showWithin(box, element) {
  const [outer, inner] = [box.getBoundingClientRect(), element.getBoundingClientRect()];
  if (inner.left < outer.left) box.scrollLeft -= outer.left - inner.left + 8;
  if (inner.right > outer.right) box.scrollLeft += inner.right - outer.right + 8;
}

function buildHeat(grid, choose) {
  document.documentElement.style.setProperty("--heads", HEADS);
  const head = (text) => make("span", { role: "columnheader" }, text);
  const top = [head(""), head("all"), ...Array.from({ length: HEADS }, (_, index) => head(HEADS > 16 && index % 2 ? "" : String(index)))];
  grid.append(make("div", { role: "row", class: "heat-row" }, ...top));
  for (let layer = 0; layer < LAYERS; layer += 1) {
    const row = make("div", { role: "row", class: "heat-row" }, make("span", { role: "rowheader" }, String(layer)));
    for (const head of [MEAN, ...Array(HEADS).keys()]) {
      const attributes = { type: "button", role: "gridcell", tabindex: -1, "data-layer": layer, "data-head": head };
      row.append(make("button", attributes));
    }
    grid.append(row);
  }
  const chosen = (button) => {
    const [layer, head] = [Number(button.dataset.layer), Number(button.dataset.head)];
    choose({ kind: head === MEAN ? "layer" : "head", layer, head: head === MEAN ? 0 : head });
  };
  grid.addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (button) chosen(button);
  });
  grid.addEventListener("keydown", (event) => {
    const button = event.target.closest("button");
    if (!button || event.altKey || event.ctrlKey || event.metaKey) return;
    const rows = [...grid.querySelectorAll(".heat-row")].slice(1).map((row) => [...row.querySelectorAll("button")]);
    const layer = Number(button.dataset.layer);
    const column = rows[layer].indexOf(button);
    const next = {
      ArrowLeft: [layer, Math.max(column - 1, 0)],
      ArrowRight: [layer, Math.min(column + 1, HEADS)],
      ArrowUp: [Math.max(layer - 1, 0), column],
      ArrowDown: [Math.min(layer + 1, LAYERS - 1), column],
      Home: [layer, 0],
      End: [layer, HEADS],
    }[event.key];
    if (!next) return;
    event.preventDefault();
    const target = rows[next[0]][next[1]];
    target.focus({ preventScroll: true });
    showWithin(grid.parentElement, target);
    chosen(target);
  });
}

// values(layer, head); what: {low, high, stops, name, digits}
function paintHeat(grid, values, what, choice) {
  const chosen = choice.kind === "layer" ? MEAN : choice.head;
  for (const button of grid.querySelectorAll("button")) {
    const [layer, head] = [Number(button.dataset.layer), Number(button.dataset.head)];
    const value = values(layer, head);
    const colour = ramp(what.stops, (value - what.low) / (what.high - what.low || 1));
    const known = Number.isFinite(value);
    button.style.background = known ? rgb(colour) : "";
    button.style.color = isLight(colour) ? "#000" : "#fff";
    button.textContent = known && HEADS <= 12 ? String(Math.round(100 * value)) : "";
    const name = head === MEAN ? `layer ${layer}, all heads` : `layer ${layer}, head ${head}`;
    button.setAttribute("aria-label", `${name}: ${what.name} ${told(value)}`);
    button.title = button.getAttribute("aria-label");
    const selected = choice.kind !== "top" && layer === choice.layer && head === chosen;
    const top = choice.kind === "top" && DATA.top.some(([l, h]) => l === layer && h === head);
    button.setAttribute("aria-selected", String(selected || top));
    button.tabIndex = selected || (choice.kind === "top" && layer === DATA.top[0][0] && head === DATA.top[0][1]) ? 0 : -1;
  }
}
