// The drawing area: by finger, pen, mouse or keyboard.

const STEP = 0.04; // of an arrow key, of the frame

class Pad {
  /** Calls `changed(strokes)` after each change; a stroke is a list of places in 0 to 1. */
  constructor(canvas, changed) {
    this.canvas = canvas;
    this.changed = changed;
    this.strokes = [];
    this.cursor = [0.5, 0.3];
    this.down = false; // the keyboard's pen
    this.pointer = null;
    canvas.addEventListener("pointerdown", (event) => this.press(event));
    canvas.addEventListener("pointermove", (event) => this.move(event));
    for (const name of ["pointerup", "pointercancel"])
      canvas.addEventListener(name, () => (this.pointer = null));
    canvas.addEventListener("keydown", (event) => this.key(event));
    for (const name of ["focus", "blur"]) canvas.addEventListener(name, () => this.show());
    new ResizeObserver(() => this.show()).observe(canvas);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.show());
  }

  place(event) {
    const box = this.canvas.getBoundingClientRect();
    return [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
  }

  press(event) {
    this.canvas.setPointerCapture(event.pointerId);
    this.pointer = event.pointerId;
    this.strokes.push([this.place(event)]);
    this.update();
  }

  move(event) {
    if (event.pointerId !== this.pointer) return;
    const events = event.getCoalescedEvents?.() ?? [];
    for (const one of events.length > 0 ? events : [event])
      this.strokes.at(-1).push(this.place(one));
    this.update();
  }

  key(event) {
    const moves = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    const by = moves[event.key];
    if (by !== undefined) {
      this.cursor = this.cursor.map((v, i) => Math.min(1, Math.max(0, v + STEP * by[i])));
      if (this.down) this.strokes.at(-1).push(this.cursor);
    } else if (event.key === " ") {
      this.down = !this.down;
      if (this.down) this.strokes.push([this.cursor]);
    } else if (event.key === "Backspace" || event.key === "Delete") this.clear();
    else return;
    event.preventDefault();
    this.update();
  }

  clear() {
    this.strokes = [];
    this.down = false;
    this.update();
  }

  undo() {
    this.strokes.pop();
    this.down = false;
    this.update();
  }

  update() {
    this.show();
    this.changed(this.strokes);
  }

  show() {
    const side = Math.round(this.canvas.clientWidth * devicePixelRatio);
    if (side === 0) return;
    Object.assign(this.canvas, { width: side, height: side });
    const context = this.canvas.getContext("2d");
    const style = getComputedStyle(this.canvas);
    Object.assign(context, { lineWidth: 0.07 * side, lineCap: "round", lineJoin: "round" });
    context.strokeStyle = style.color;
    if (this.strokes.length === 0) {
      context.fillStyle = style.getPropertyValue("--quiet");
      Object.assign(context, { font: `${0.055 * side}px system-ui`, textAlign: "center" });
      context.fillText("Draw here", side / 2, side / 2);
    }
    for (const stroke of this.strokes) {
      context.beginPath();
      for (const [x, y] of [...stroke, stroke.at(-1)]) context.lineTo(x * side, y * side);
      context.stroke();
    }
    if (!this.canvas.matches(":focus-visible")) return;
    context.fillStyle = style.getPropertyValue("--accent");
    context.beginPath();
    context.arc(this.cursor[0] * side, this.cursor[1] * side, 0.03 * side, 0, 7);
    if (this.down) context.fill();
    context.strokeStyle = context.fillStyle;
    context.lineWidth = 0.012 * side;
    context.stroke();
  }
}
