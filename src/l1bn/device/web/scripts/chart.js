// Two small curves: the loss of each step, and the share of held-out examples told right.

const BOX = { height: 190, left: 46, right: 8, top: 10, bottom: 24 };
const SVG = "http://www.w3.org/2000/svg";

function shape(name, attributes, text = "") {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.textContent = text;
  return element;
}

/** A rounded number at or above `value`: 1, 2 or 5 times a power of ten. */
function ceiling(value) {
  const power = 10 ** Math.floor(Math.log10(Math.max(value, 1e-9)));
  return power * [1, 2, 5, 10].find((m) => m * power >= value * 0.999);
}

/** Means of neighbours, so that a long curve stays light. */
function thinned(points, most = 180) {
  const each = Math.ceil(points.length / most);
  if (each < 2) return points;
  return Array.from({ length: Math.ceil(points.length / each) }, (_, i) => {
    const part = points.slice(i * each, (i + 1) * each);
    return [part.at(-1)[0], part.reduce((sum, [, y]) => sum + y, 0) / part.length];
  });
}

/** Draw lines `{name, kind, points}` with y from 0 to `top`, its ends named by `label`. */
function draw(svg, lines, top, label) {
  const width = Math.max(160, svg.clientWidth); // so that text keeps its size
  const last = Math.max(1, ...lines.map(({ points }) => points.at(-1)?.[0] ?? 0));
  const at = ([x, y]) => [
    BOX.left + (x / last) * (width - BOX.left - BOX.right),
    BOX.top + (1 - Math.min(y, top) / top) * (BOX.height - BOX.top - BOX.bottom),
  ];
  svg.setAttribute("viewBox", `0 0 ${width} ${BOX.height}`);
  const parts = [0, 0.5, 1].flatMap((share) => {
    const [x, y] = at([0, share * top]);
    const end = width - BOX.right;
    return [
      shape("line", { x1: x, x2: end, y1: y, y2: y, class: "grid" }),
      shape("text", { x: x - 6, y: y + 4, "text-anchor": "end" }, label(share * top)),
    ];
  });
  const below = { y: BOX.height - 7 };
  parts.push(shape("text", { x: BOX.left, ...below }, "0"));
  const end = { x: width - BOX.right, "text-anchor": "end", ...below };
  const begun = lines.some(({ points }) => points.length > 0);
  parts.push(shape("text", end, begun ? `${last} steps` : "steps"));
  for (const { kind, points } of lines) {
    const places = thinned(points).map((point) => at(point).map((v) => v.toFixed(1)));
    parts.push(shape("polyline", { points: places.join(" "), class: `line ${kind}` }));
    const tip = places.at(-1);
    if (tip) parts.push(shape("circle", { cx: tip[0], cy: tip[1], r: 3.5, class: kind }));
  }
  svg.replaceChildren(...parts);
}

function drawCurves({ loss, own, known }) {
  const highest = loss.reduce((most, [, y]) => Math.max(most, y), 0.1);
  draw($("loss"), [{ kind: "loss", points: loss }], ceiling(highest), (v) => String(+v.toFixed(2)));
  const lines = [
    { kind: "known", points: known },
    { kind: "own", points: own },
  ];
  draw($("accuracy"), lines, 1, percent);
  const tell = (points, show) => (points.length > 0 ? show(points.at(-1)[1]) : "none yet");
  $("loss").setAttribute("aria-label", `Loss by step, last ${tell(loss, (v) => v.toFixed(3))}`);
  const of = `yours ${tell(own, percent)}, known ${tell(known, percent)}`;
  $("accuracy").setAttribute("aria-label", `Held-out examples told right by step: ${of}`);
}
