// What is drawn, in colours that are told apart without red and green.
const WARM = [[10, 7, 46], [87, 16, 110], [188, 55, 84], [249, 142, 9], [252, 255, 164]];
const COOL = [[68, 1, 84], [59, 82, 139], [33, 145, 140], [94, 201, 98], [253, 231, 37]];
const BOTH_WAYS = [[33, 102, 172], [146, 197, 222], [247, 247, 247], [244, 165, 130], [178, 24, 43]];
const BITS = { both: [0, 200, 140], attention: [240, 165, 20], object: [90, 165, 255] };
const OUTLINE = "#ff4fd8";

function ramp(stops, share) {
  const at = Math.min(Math.max(share, 0), 1) * (stops.length - 1);
  const low = Math.min(Math.floor(at), stops.length - 2);
  return stops[low].map((part, index) => Math.round(part + (stops[low + 1][index] - part) * (at - low)));
}

const rgb = (colour, alpha = 1) => `rgba(${colour.join(",")},${alpha})`;
const isLight = ([red, green, blue]) => 0.3 * red + 0.59 * green + 0.11 * blue > 140;

function bar(stops, low, high, curve = (share) => share) {
  const element = document.createElement("span");
  element.className = "bar";
  const colours = Array.from({ length: 17 }, (_, index) => rgb(ramp(stops, curve(index / 16))));
  element.style.background = `linear-gradient(to right, ${colours.join(",")})`;
  return [document.createTextNode(low), element, document.createTextNode(high)];
}

// Little attention is seen, too.
const lifted = (share) => Math.sqrt(share);

// The picture without its colours, darker.
function ground(context, element, width, height) {
  context.globalCompositeOperation = "source-over";
  context.drawImage(element, 0, 0, width, height);
  context.globalCompositeOperation = "saturation";
  context.fillStyle = "hsl(0,0%,50%)";
  context.fillRect(0, 0, width, height);
  context.globalCompositeOperation = "source-over";
  context.fillStyle = "rgba(0,0,0,.25)";
  context.fillRect(0, 0, width, height);
}

function firstToken(image, plane) {
  const before = image.planes.slice(0, plane);
  return before.reduce((sum, { rows, cols }) => sum + rows.length * cols.length, 0);
}

// Calls paint(token, left, top, width, height) for every token of a plane; whole pixels, so that no seam shows.
function eachToken(image, plane, width, height, paint) {
  const { rows, cols } = image.planes[plane];
  let token = firstToken(image, plane);
  for (const [top, bottom] of rows) {
    for (const [left, right] of cols) {
      const [x, y] = [Math.round(left * width), Math.round(top * height)];
      paint(token, x, y, Math.round(right * width) - x, Math.round(bottom * height) - y);
      token += 1;
    }
  }
}

function paintAttention(context, image, plane, map, brightest, size) {
  eachToken(image, plane, ...size, (token, ...place) => {
    const share = lifted((map.values[token] / 255) * (brightest ? map.scale / brightest : 0));
    context.fillStyle = rgb(ramp(WARM, share), 0.2 + 0.65 * share);
    context.fillRect(...place);
  });
}

function paintBits(context, image, plane, map, mask, size) {
  eachToken(image, plane, ...size, (token, ...place) => {
    const [above, inside] = [bitOf(map.above, token), bitOf(mask, token)];
    if (!above && !inside) return;
    context.fillStyle = rgb(above && inside ? BITS.both : above ? BITS.attention : BITS.object, 0.62);
    context.fillRect(...place);
  });
}

function paintGrid(context, image, plane, size) {
  const { rows, cols, cuts } = image.planes[plane];
  const [width, height] = size;
  const lines = (count, of, strong, draw) => {
    for (let index = 1; index < of.length; index += 1) {
      context.strokeStyle = index % (of.length / count) === 0 && strong ? "rgba(255,255,255,.55)" : "rgba(255,255,255,.13)";
      context.beginPath();
      draw(of[index][0]);
      context.stroke();
    }
  };
  context.lineWidth = 1;
  const crisp = (place) => Math.round(place) + 0.5;
  lines(cuts[0], rows, cuts[0] > 1, (at) => {
    context.moveTo(0, crisp(at * height));
    context.lineTo(width, crisp(at * height));
  });
  lines(cuts[1], cols, cuts[1] > 1, (at) => {
    context.moveTo(crisp(at * width), 0);
    context.lineTo(crisp(at * width), height);
  });
}

function paintOutline(context, outline, [width, height]) {
  const path = new Path2D();
  path.addPath(new Path2D(outline.path), new DOMMatrix().scale(width / outline.width, height / outline.height));
  context.lineCap = "square";
  const fine = devicePixelRatio * (Math.max(width, height) > 160 * devicePixelRatio ? 1 : 0.7);
  for (const [colour, line] of [["rgba(0,0,0,.75)", 3.5], [OUTLINE, 1.75]]) {
    context.strokeStyle = colour;
    context.lineWidth = line * fine;
    context.stroke(path);
  }
}

// As many pixels as the screen has where the canvas is shown: scaled by the browser, fine lines would break up.
function sized(canvas, image) {
  const scale = (Math.max(canvas.clientWidth, 40) * devicePixelRatio) / image.width;
  [canvas.width, canvas.height] = [image.width, image.height].map((side) => Math.max(1, Math.round(side * scale)));
  return [canvas.width, canvas.height];
}

// The shape of the image, as wide as there is room, and no higher than that; in CSS.
function shape(canvas, image, highest) {
  canvas.style.aspectRatio = `${image.width} / ${image.height}`;
  canvas.style.width = `min(100%, calc(${highest} * ${image.width / image.height}))`;
}

function drawPicture(canvas, image, loaded, object) {
  const size = sized(canvas, image);
  const context = canvas.getContext("2d");
  context.drawImage(loaded.element, 0, 0, ...size);
  if (loaded.masks[object]) paintOutline(context, image.objects[object].outline, size);
}

// what: {image, loaded, object, plane, map, brightest, bits, lines}
function draw(canvas, what) {
  const { image, loaded, object, plane, map } = what;
  const size = sized(canvas, image);
  const context = canvas.getContext("2d");
  ground(context, loaded.element, ...size);
  const mask = loaded.masks[object];
  if (what.bits) paintBits(context, image, plane, map, mask, size);
  else paintAttention(context, image, plane, map, what.brightest, size);
  if (what.lines) paintGrid(context, image, plane, size);
  if (mask) paintOutline(context, image.objects[object].outline, size);
}
