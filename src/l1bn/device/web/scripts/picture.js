// From a drawing or a photograph to the pixels that the network takes.

const FINE = 8; // a drawing is first drawn this many times as large
const PEN = 0.13; // width of a stroke, of the frame
const MARGIN = 0.06;

const codes = new Int8Array(fromBase64(figures.codes).buffer);

/** The network's own numbers: each pixel through the table of its colour. */
function encode(pixels) {
  return Int8Array.from(pixels, (value, at) => codes[(at % CHANNELS) * 256 + value]);
}

/** A surface to draw on that nobody sees, in the colour of the data's ground. */
function surface(width, height) {
  const context = Object.assign(document.createElement("canvas"), { width, height }).getContext(
    "2d",
    { willReadFrequently: true },
  );
  context.fillStyle = figures.dark ? "#000" : "#fff";
  context.fillRect(0, 0, width, height);
  return context;
}

/** Means of squares of `FINE` pixels, as colours of the network. */
function shrink(context) {
  const { data } = context.getImageData(0, 0, WIDTH * FINE, HEIGHT * FINE);
  const sums = new Float64Array(PIXELS * 3);
  for (let y = 0; y < HEIGHT * FINE; y += 1)
    for (let x = 0; x < WIDTH * FINE; x += 1) {
      const to = 3 * (Math.floor(y / FINE) * WIDTH + Math.floor(x / FINE));
      const from = 4 * (y * WIDTH * FINE + x);
      for (let c = 0; c < 3; c += 1) sums[to + c] += data[from + c] / (FINE * FINE);
    }
  const pixels = new Uint8Array(PIXELS * CHANNELS);
  for (let p = 0; p < PIXELS; p += 1) {
    const [r, g, b] = sums.subarray(3 * p, 3 * p + 3);
    if (CHANNELS === 1) pixels[p] = Math.round(0.299 * r + 0.587 * g + 0.114 * b);
    else pixels.set([Math.round(r), Math.round(g), Math.round(b)], 3 * p);
  }
  return pixels;
}

/** Strokes, moved and scaled so that they fill the frame, drawn with one pen. */
function fromStrokes(strokes) {
  const points = strokes.flat();
  const xs = points.map(([x]) => x);
  const ys = points.map(([, y]) => y);
  const [left, right, top, bottom] = [
    Math.min(...xs),
    Math.max(...xs),
    Math.min(...ys),
    Math.max(...ys),
  ];
  const width = WIDTH * FINE;
  const height = HEIGHT * FINE;
  const pen = PEN * Math.min(width, height);
  const room = 1 - 2 * MARGIN;
  const scale = Math.min(
    (width * room - pen) / Math.max(right - left, 0.15),
    (height * room - pen) / Math.max(bottom - top, 0.15),
  );
  const context = surface(width, height);
  context.translate(width / 2, height / 2);
  context.strokeStyle = figures.dark ? "#fff" : "#000";
  Object.assign(context, { lineWidth: pen, lineCap: "round", lineJoin: "round" });
  for (const stroke of strokes) {
    context.beginPath();
    for (const [x, y] of [...stroke, stroke[stroke.length - 1]])
      context.lineTo((x - (left + right) / 2) * scale, (y - (top + bottom) / 2) * scale);
    context.stroke();
  }
  return shrink(context);
}

/** The middle square of a picture. Of grey data with a dark ground, light paper is inverted. */
function fromImage(image, width, height) {
  const side = Math.min(width, height);
  const context = surface(WIDTH * FINE, HEIGHT * FINE);
  const corner = [(width - side) / 2, (height - side) / 2];
  context.drawImage(image, ...corner, side, side, 0, 0, WIDTH * FINE, HEIGHT * FINE);
  const pixels = shrink(context);
  if (CHANNELS !== 1) return pixels;
  const edge = pixels.filter((_, at) => onEdge(at));
  const ground = edge.reduce((sum, value) => sum + value, 0) / edge.length;
  return ground > 127 === figures.dark ? pixels.map((value) => 255 - value) : pixels;
}

function onEdge(at) {
  const y = Math.floor(at / WIDTH);
  const x = at % WIDTH;
  return y === 0 || x === 0 || y === HEIGHT - 1 || x === WIDTH - 1;
}

/** Show pixels on a canvas, one of its own for each. */
function paint(canvas, pixels) {
  Object.assign(canvas, { width: WIDTH, height: HEIGHT });
  const image = new ImageData(WIDTH, HEIGHT);
  for (let p = 0; p < PIXELS; p += 1) {
    const at = p * CHANNELS;
    const colour = CHANNELS === 1 ? Array(3).fill(pixels[at]) : pixels.subarray(at, at + 3);
    image.data.set([...colour, 255], 4 * p);
  }
  canvas.getContext("2d").putImageData(image, 0, 0);
}
