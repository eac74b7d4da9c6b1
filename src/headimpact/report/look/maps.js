"use strict";

// The data of the page. Numbers of whole phrases are read at once, the attention of an image when it is looked at.
const DATA = JSON.parse(document.getElementById("data").textContent);
const { layers: LAYERS, heads: HEADS } = DATA;
const MEAN = HEADS; // behind the heads of a layer: the mean of their attention
const CELLS = LAYERS * (HEADS + 1);

function bytesOf(base64) {
  const text = atob(base64);
  const bytes = new Uint8Array(text.length);
  for (let index = 0; index < text.length; index += 1) bytes[index] = text.charCodeAt(index);
  return bytes;
}

const floatsOf = (base64) => new Float32Array(bytesOf(base64).buffer);

for (const variant of DATA.variants) {
  for (const name of ["iou", "share", "top_iou"]) variant[name] = floatsOf(variant[name]);
}

// The number of an object among those of all images.
const FIRST = [];
let objects = 0;
for (const image of DATA.images) {
  FIRST.push(objects);
  objects += image.objects.length;
}
const OBJECTS = objects;

const cell = (layer, head) => layer * (HEADS + 1) + head;

// A whole phrase's number; choice is {kind: "head" | "layer" | "top", layer, head}.
function scoreOf(variant, name, image, object, choice) {
  const number = FIRST[image] + object;
  if (choice.kind === "top" && name === "iou") return variant.top_iou[number];
  return variant[name][number * CELLS + cell(choice.layer, choice.kind === "layer" ? MEAN : choice.head)];
}

async function inflate(base64) {
  const stream = new Blob([bytesOf(base64)]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

// One block of maps: three numbers a map, a byte a token, a bit a token.
function readBlock(bytes, start, count, tokens) {
  const bits = Math.ceil(tokens / 8);
  const values = start + 12 * count;
  const above = values + count * tokens;
  const numbers = new Float32Array(bytes.slice(start, values).buffer);
  const map = (index) => ({
    scale: numbers[3 * index],
    share: numbers[3 * index + 1],
    iou: numbers[3 * index + 2],
    values: bytes.subarray(values + index * tokens, values + (index + 1) * tokens),
    above: bytes.subarray(above + index * bits, above + (index + 1) * bits),
  });
  return { map, end: above + count * bits };
}

function readImage(image, bytes) {
  let at = 0;
  const block = (count) => {
    const read = readBlock(bytes, at, count, image.tokens);
    at = read.end;
    return read.map;
  };
  const maps = DATA.variants.map(() =>
    image.objects.map((object) => ({
      all: block((DATA.pieces ? object.pieces.length + 1 : 1) * CELLS),
      top: block(1),
    })),
  );
  const bits = Math.ceil(image.tokens / 8);
  const masks = image.objects.map((object) => {
    if (!object.outline) return null;
    at += bits;
    return bytes.subarray(at - bits, at);
  });
  return { maps, masks };
}

const reading = new Map();

// Of an image: the picture, and maps[variant][object] with its masks[object].
function load(number) {
  if (!reading.has(number)) {
    const image = DATA.images[number];
    const element = new Image();
    element.src = image.picture;
    const text = JSON.parse(document.getElementById(`maps-${number}`).textContent);
    const both = Promise.all([inflate(text), element.decode()]);
    reading.set(number, both.then(([bytes]) => ({ ...readImage(image, bytes), element })));
  }
  return reading.get(number);
}

function mapOf(loaded, variant, object, choice, piece) {
  const { all, top } = loaded.maps[variant][object];
  if (choice.kind === "top") return top(0);
  return all(piece * CELLS + cell(choice.layer, choice.kind === "layer" ? MEAN : choice.head));
}

const bitOf = (bits, index) => (bits[index >> 3] >> (7 - (index & 7))) & 1;
