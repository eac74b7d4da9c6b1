// The page: what is chosen, and everything that follows from it.
const PAGE = Object.fromEntries([...document.querySelectorAll("[id]")].map((element) => [element.id, element]));
const EXTREMES = 6;
const [TOP_LAYER, TOP_HEAD] = DATA.top[0];
const state = {
  image: 0,
  object: 0,
  piece: 0,
  choice: { kind: "head", layer: TOP_LAYER, head: TOP_HEAD },
  measure: DATA.masked ? "hi" : "share",
  of: 0,
  plane: 0,
};
const BESIDE = DATA.variants.length > 1;
const SCORE = DATA.masked ? "IoU" : "attention on the image";

const nameOf = ({ kind, layer, head }) =>
  ({ head: `layer ${layer}, head ${head}`, layer: `layer ${layer}`, top: `the top ${DATA.top.length} heads together` })[kind];
const capital = (text) => text[0].toUpperCase() + text.slice(1);
const quoted = (text) => `“${oneLine(text)}”`;
const toldScore = (value) => (DATA.masked ? told(value) : percent(value));

function change(what) {
  Object.assign(state, what);
  if (state.choice.kind === "top") state.piece = 0;
  writeAddress();
  render();
}

// ---- heads

function measures() {
  const list = [["share", "attention on the image, this object"]];
  return DATA.masked ? [["hi", `HI: mean IoU of ${OBJECTS} objects`], ["iou", "IoU of this object"], ...list] : list;
}

function heatValue(variant, layer, head) {
  if (state.measure === "hi") return variant.hi[layer][head] ?? NaN;
  const kind = head === MEAN ? "layer" : "head";
  return scoreOf(variant, state.measure, state.image, state.object, { kind, layer, head });
}

function renderHeat() {
  const [first, second] = DATA.variants;
  const difference = state.of === DATA.variants.length;
  const values = difference
    ? (layer, head) => heatValue(second, layer, head) - heatValue(first, layer, head)
    : (layer, head) => heatValue(DATA.variants[state.of], layer, head);
  const all = [];
  const shown = difference ? [values] : DATA.variants.map((variant) => (layer, head) => heatValue(variant, layer, head));
  for (const of of shown) {
    for (let layer = 0; layer < LAYERS; layer += 1) for (let head = 0; head <= HEADS; head += 1) all.push(of(layer, head));
  }
  const most = Math.max(...all.filter(Number.isFinite).map(Math.abs), 1e-9);
  const name = { hi: "HI", iou: "IoU", share: "attention on the image" }[state.measure];
  const what = difference
    ? { low: -most, high: most, stops: BOTH_WAYS, name: `difference in ${name}` }
    : { low: state.measure === "share" ? Math.min(...all.filter(Number.isFinite)) : 0, high: most, stops: COOL, name };
  paintHeat(PAGE.heat, values, what, state.choice);
  const ends = [what.low, what.high].map((end) => (end ? `${end > 0 && difference ? "+" : ""}${told(end)}` : "0"));
  const note = HEADS <= 12 ? [make("span", { class: "unit" }, "cells: hundredths")] : [];
  PAGE["heat-legend"].replaceChildren(make("span", {}, ...bar(what.stops, ...ends)), ...note);
}

function renderQuick() {
  const button = (choice, text) => {
    const pressed = JSON.stringify(choice) === JSON.stringify(state.choice);
    const choose = () => change({ choice });
    return make("button", { type: "button", "aria-pressed": pressed, onclick: choose }, text);
  };
  const focused = [...PAGE.quick.children].indexOf(document.activeElement);
  const best = DATA.masked ? "Best by HI" : "Most on the image";
  PAGE.quick.replaceChildren(
    button({ kind: "head", layer: TOP_LAYER, head: TOP_HEAD }, `${best}: layer ${TOP_LAYER}, head ${TOP_HEAD}`),
    button({ kind: "layer", layer: state.choice.layer, head: 0 }, `All heads of layer ${state.choice.layer}`),
    button({ kind: "top", layer: TOP_LAYER, head: TOP_HEAD }, `Top ${DATA.top.length} heads together`),
  );
  PAGE.quick.children[focused]?.focus();
}

// ---- the object

function renderChoices() {
  const image = DATA.images[state.image];
  const items = image.objects.map(({ phrase }) => ({ name: oneLine(phrase) }));
  radios(PAGE.objects, items, state.object, (object) => change({ object, piece: 0 }));
  const pieces = image.objects[state.object].pieces.map((text) => ({ name: oneLine(text) }));
  radios(PAGE.pieces, [{ name: "the whole phrase" }, ...pieces], state.piece, (piece) => change({ piece }));
  PAGE.pieces.hidden = !DATA.pieces;
  PAGE.pieces.disabled = state.choice.kind === "top";
  const film = DATA.images.map((one, index) => ({
    name: `image ${one.id}`,
    content: make("img", {
      src: one.picture,
      alt: `image ${one.id}`,
      width: one.width,
      height: one.height,
      loading: "lazy",
      decoding: "async",
    }),
  }));
  PAGE.images.hidden = DATA.images.length < 2;
  radios(PAGE.images, film, state.image, (number) => change({ image: number, object: 0, piece: 0 }));
  const planes = image.planes.map(({ name }) => ({ name: `the ${name}` }));
  state.plane = Math.min(state.plane, planes.length - 1);
  radios(PAGE.plane, planes, state.plane, (plane) => change({ plane }));
  PAGE.plane.hidden = planes.length < 2;
}

function countsOf(map, mask, tokens) {
  let [above, inside, both] = [0, 0, 0];
  for (let token = 0; token < tokens; token += 1) {
    above += bitOf(map.above, token);
    inside += bitOf(mask, token);
    both += bitOf(map.above, token) & bitOf(mask, token);
  }
  return `${both} of ${above + inside - both} tokens`;
}

function panel(loaded, variant, map, plane, brightest, bits) {
  const image = DATA.images[state.image];
  const { name, rows, cols } = image.planes[plane];
  const canvas = make("canvas", { role: "img" });
  const kind = bits ? "binarised" : "attention";
  const where = image.planes.length > 1 ? `${name}, ${rows.length} x ${cols.length} tokens` : `${rows.length} x ${cols.length} tokens`;
  canvas.setAttribute("aria-label", `${variant.name}, ${nameOf(state.choice)}, ${kind}, ${where}`);
  shape(canvas, image, "75vh");
  const what = { image, loaded, object: state.object, plane, map, brightest, bits, lines: true };
  const figure = make("figure", {}, canvas, make("figcaption", {}, `${capital(kind)}: ${where}`));
  return { figure, draw: () => draw(canvas, what) };
}

function renderPanels(loaded) {
  const image = DATA.images[state.image];
  const { phrase } = image.objects[state.object];
  shape(PAGE.picture, image, "12rem");
  drawPicture(PAGE.picture, image, loaded, state.object);
  PAGE.picture.setAttribute("aria-label", `image ${image.id}${DATA.masked ? `, outlined: ${oneLine(phrase)}` : ""}`);
  const maps = DATA.variants.map((_, index) => mapOf(loaded, index, state.object, state.choice, state.piece));
  const brightest = Math.max(...maps.map((map) => map.scale));
  const drawings = [];
  const blocks = DATA.variants.map((variant, index) => {
    const map = maps[index];
    const mask = loaded.masks[state.object];
    const figures = [];
    for (const bits of DATA.masked ? [false, true] : [false]) {
      image.planes.forEach((_, plane) => {
        const { figure, draw: later } = panel(loaded, variant, map, plane, brightest, bits);
        figures.push(figure);
        drawings.push(later);
      });
    }
    const iou = make("strong", { class: "iou", "data-iou": map.iou }, told(map.iou));
    const facts = mask ? ["IoU ", iou, ` (${countsOf(map, mask, image.tokens)}), `] : [];
    const share = `${percent(map.share)} of the attention on the image`;
    const title = make("h3", {}, variant.name, make("small", {}, ...facts, share));
    return make("section", { class: "variant" }, title, make("div", { class: `figures n${figures.length}` }, ...figures));
  });
  PAGE.panels.replaceChildren(...blocks);
  PAGE.panels.className = BESIDE && image.planes.length > 1 ? "stacked" : "";
  for (const later of drawings) later(); // now that there is a width
  PAGE["map-legend"].replaceChildren(
    make("span", {}, ...bar(WARM, "0", percent(brightest), lifted)),
    make("span", { class: "unit" }, "of the attention, a token"),
  );
  const swatch = (name, text) => {
    const square = make("span", { class: "swatch" });
    square.style.background = rgb(BITS[name]);
    return make("span", {}, square, text);
  };
  const line = make("span", { class: "swatch line" });
  line.style.borderColor = OUTLINE;
  const key = [swatch("both", "both"), swatch("attention", "attention alone"), swatch("object", "object alone")];
  PAGE["bits-legend"].replaceChildren(...(DATA.masked ? [...key, make("span", {}, line, "outline of the object")] : []));
}

// ---- rows of small pictures

// Small pictures are drawn when they come near the window: until then, other images are not even read.
const drawing = new WeakMap();
const near = new IntersectionObserver(
  (entries) => {
    for (const { isIntersecting, target } of entries) {
      if (!isIntersecting) continue;
      near.unobserve(target);
      drawing.get(target)();
    }
  },
  { rootMargin: "300px" },
);

// what: {number, object, choice, piece, variant, text, pick}
function tile(what, current) {
  const canvas = make("canvas", { "aria-hidden": "true" });
  const texts = what.text.map((text, index) => make(index ? "small" : "span", {}, text));
  const attributes = { type: "button", class: "tile", onclick: () => change(what.pick) };
  if (current) attributes["aria-current"] = "true";
  const button = make("button", attributes, canvas, ...texts);
  const image = DATA.images[what.number];
  shape(canvas, image, "9rem");
  drawing.set(canvas, async () => {
    const loaded = await load(what.number);
    const map = mapOf(loaded, what.variant, what.object, what.choice, what.piece);
    const plane = Math.min(state.plane, image.planes.length - 1);
    draw(canvas, { image, loaded, object: what.object, plane, map, brightest: map.scale, bits: false, lines: false });
  });
  near.observe(canvas);
  return button;
}

function strip(parent, rows) {
  const scrolled = [...parent.querySelectorAll(".scroll")].map((box) => box.scrollLeft);
  parent.replaceChildren(
    ...rows.map(([name, tiles]) => make("div", { class: "strip" }, make("h3", {}, name), make("div", { class: "scroll" }, ...tiles))),
  );
  parent.querySelectorAll(".scroll").forEach((box, index) => {
    box.scrollLeft = scrolled[index] ?? 0;
    const current = box.querySelector("[aria-current]");
    if (current) showWithin(box, current);
  });
}

function renderRows(loaded) {
  const { image: number, object, piece } = state;
  const here = { number, object, piece };
  const phrase = quoted(DATA.images[number].objects[object].phrase);
  const { kind, layer, head } = state.choice;
  const each = (list) => DATA.variants.map((variant, index) => [BESIDE ? variant.name : "", list(variant, index)]);
  const score = (variant, choice) => {
    const map = mapOf(loaded, variant, object, choice, piece);
    return toldScore(DATA.masked ? map.iou : map.share);
  };
  const small = (variant, choice, current) =>
    tile({ ...here, choice, variant, text: [nameOf(choice), score(variant, choice)], pick: { choice } }, current);
  const over = kind === "head" ? `head ${head}` : "all heads of a layer together";
  PAGE["layers-title"].textContent = `${phrase} over all layers, ${over}`;
  const across = (at) => (kind === "head" ? { kind, layer: at, head } : { kind: "layer", layer: at, head: 0 });
  const inLayers = (_, variant) => [...Array(LAYERS).keys()].map((at) => small(variant, across(at), kind !== "top" && at === layer));
  strip(PAGE["layers-strip"], each(inLayers));
  PAGE["top-title"].textContent = `${phrase} in the top ${DATA.top.length} heads`;
  const inTop = (_, variant) =>
    DATA.top.map(([l, h]) => small(variant, { kind: "head", layer: l, head: h }, kind === "head" && l === layer && h === head));
  strip(PAGE["top-strip"], each(inTop));
}

function renderExtremes() {
  PAGE.extremes.hidden = !DATA.masked || OBJECTS < 2;
  if (PAGE.extremes.hidden) return;
  const variant = Math.min(state.of, DATA.variants.length - 1);
  const { name } = DATA.variants[variant];
  const all = DATA.images.flatMap((image, number) => image.objects.map((_, object) => ({ number, object })));
  const scored = all.map((at) => ({ ...at, iou: scoreOf(DATA.variants[variant], "iou", at.number, at.object, state.choice) }));
  const ordered = scored.filter(({ iou }) => Number.isFinite(iou)).sort((a, b) => b.iou - a.iou);
  const count = Math.min(EXTREMES, Math.floor(ordered.length / 2));
  const small = ({ number, object, iou }) => {
    const text = [oneLine(DATA.images[number].objects[object].phrase), told(iou)];
    const pick = { image: number, object, piece: 0 };
    const current = number === state.image && object === state.object;
    return tile({ number, object, piece: 0, choice: state.choice, variant, text, pick }, current);
  };
  const of = BESIDE ? `, ${name}` : "";
  PAGE["extremes-title"].textContent = `Best and worst objects of ${nameOf(state.choice)}${of}`;
  const rows = [["best", ordered.slice(0, count)], ["worst", ordered.slice(ordered.length - count).reverse()]];
  strip(PAGE["extremes-strip"], rows.map(([title, list]) => [title, list.map(small)]));
}

// ---- all of it

// What is chosen stands behind the # of the address, so that a link leads to it.
const WRITTEN = ["image", "object", "piece"];

function readAddress() {
  const given = new URLSearchParams(location.hash.slice(1));
  const number = (name, count) => {
    const value = Number(given.get(name));
    return Number.isInteger(value) && value >= 0 && value < count ? value : 0;
  };
  state.image = number("image", DATA.images.length);
  const { objects: ofImage } = DATA.images[state.image];
  state.object = number("object", ofImage.length);
  if (DATA.pieces) state.piece = number("piece", ofImage[state.object].pieces.length + 1);
  const layer = number("layer", LAYERS);
  if (given.has("head")) state.choice = { kind: "head", layer, head: number("head", HEADS) };
  else if (given.has("layer")) state.choice = { kind: "layer", layer, head: 0 };
}

function writeAddress() {
  const { kind, layer, head } = state.choice;
  const chosen = { head: { layer, head }, layer: { layer }, top: {} }[kind];
  const parts = [...WRITTEN.map((name) => [name, state[name]]), ...Object.entries(chosen)];
  try {
    history.replaceState(null, "", `#${new URLSearchParams(parts)}`);
  } catch {
    // A page within a page (a notebook's) has no address of its own.
  }
}

async function render() {
  renderHeat();
  renderQuick();
  renderChoices();
  const { image, object, piece } = state;
  const { phrase, pieces } = DATA.images[image].objects[object];
  const words = piece ? `${quoted(pieces[piece - 1])} of ${quoted(phrase)}` : quoted(phrase);
  const title = `${capital(nameOf(state.choice))}, reading ${words}`;
  if (PAGE["stage-title"].textContent !== title) PAGE["stage-title"].textContent = title;
  const shown = { ...state };
  const loaded = await load(image);
  if (Object.keys(shown).some((key) => shown[key] !== state[key])) return; // something else was chosen meanwhile
  renderPanels(loaded);
  renderRows(loaded);
  renderExtremes();
  document.body.dataset.shown = title;
}

function options(select, entries, choose) {
  select.replaceChildren(...entries.map(([value, text]) => make("option", { value }, text)));
  select.addEventListener("change", () => choose(select.value));
}

PAGE.main.hidden = false;
PAGE.objects.querySelector("legend").textContent = DATA.masked ? "Object" : "Words";
buildHeat(PAGE.heat, (choice) => change({ choice }));
options(PAGE.measure, measures(), (measure) => change({ measure }));
const kinds = DATA.variants.map(({ name }, index) => [index, name]);
if (BESIDE) kinds.push([DATA.variants.length, `${DATA.variants[1].name} minus ${DATA.variants[0].name}`]);
options(PAGE.of, kinds, (of) => change({ of: Number(of) }));
PAGE["of-label"].hidden = !BESIDE;
let resized = 0;
let width = innerWidth;
addEventListener("resize", () => {
  if (width === innerWidth) return; // a phone's address bar comes and goes
  width = innerWidth;
  clearTimeout(resized);
  resized = setTimeout(render, 150);
});
readAddress();
addEventListener("hashchange", () => {
  readAddress();
  render();
});
render();
