// Classes and their examples.

const ASIDE = 4; // every fourth example of a class is kept aside for the test

class Examples {
  /** Calls `changed()` after each change that a person made. */
  constructor(changed) {
    this.changed = changed;
    this.names = [...figures.classes];
    this.own = [];
    this.count = 0;
    this.known = readKnown();
  }

  /** Numbers of the classes that have a name. */
  get used() {
    return this.names.flatMap((name, label) => (name === "" ? [] : [label]));
  }

  /** Examples of the data whose class still means what it did. */
  get remembered() {
    return this.known.filter(({ label }) => this.names[label] === figures.classes[label]);
  }

  add(pixels, label) {
    const before = this.own.filter((example) => example.label === label).length;
    this.count += 1;
    const held = before % ASIDE === ASIDE - 1;
    this.own.push({ id: `own ${this.count}`, pixels, label, held });
    this.show();
    this.changed();
  }

  remove(example) {
    this.own = this.own.filter((one) => one !== example);
    this.show();
    this.changed();
  }

  /** An empty name takes a class away, but not the last one, nor one with examples of a person's. */
  rename(label, name) {
    const wanted = name.trim();
    const stays = this.used.length === 1 || this.own.some((example) => example.label === label);
    if (wanted !== "" || !stays) this.names[label] = wanted;
    else say("The last class keeps its name, and so does one with examples of yours.", true);
    this.show();
    this.changed();
  }

  /** Forget names and examples: classes of a person's own. */
  anew() {
    this.own = [];
    this.names = figures.classes.map((_, i) => (i < 2 ? `class ${i + 1}` : ""));
    this.show();
    this.changed();
  }

  restore({ names, examples }) {
    this.names = [...names];
    this.own = examples.map((one, i) => ({ ...one, id: `own ${i + 1}` }));
    this.count = this.own.length;
    this.show();
  }

  /** What the worker takes: numbers of the network, for learning and for the test. */
  prepared() {
    const of = (examples, held) =>
      examples
        .filter((e) => e.held === held && this.names[e.label] !== "")
        .map(({ id, pixels, label }) => ({ id, label, image: encode(pixels) }));
    return {
      own: of(this.own, false),
      known: of(this.remembered, false),
      held: { own: of(this.own, true), known: of(this.remembered, true) },
      used: this.used,
    };
  }

  show() {
    $("classes").replaceChildren(...this.used.map((label) => this.row(label)));
    $("add-class").hidden = this.used.length === CLASSES;
    $("choices").replaceChildren(...this.used.map((label) => this.choice(label)));
  }

  choice(label) {
    const button = make("button", { type: "button", textContent: this.names[label] });
    button.dataset.label = label;
    button.setAttribute("aria-label", `It is ${this.names[label]}: add it`);
    return button;
  }

  row(label) {
    const name = this.names[label];
    const input = make("input", { value: name, maxLength: 24, spellcheck: false });
    input.setAttribute("aria-label", `Name of class ${label + 1}`);
    input.addEventListener("change", () => this.rename(label, input.value));
    const own = this.own.filter((example) => example.label === label);
    const old = this.remembered.filter((example) => example.label === label);
    const thumbs = make("div", { className: "thumbs" });
    thumbs.append(...own.map((example) => this.thumb(example, name)));
    thumbs.append(...old.slice(0, Math.max(0, 6 - own.length)).map(({ pixels }) => quiet(pixels)));
    const text = `${own.length} yours` + (old.length > 0 ? ` · ${old.length} known` : "");
    const count = make("span", { className: "count", textContent: text });
    return make("li", {}, input, thumbs, count);
  }

  thumb(example, name) {
    const canvas = make("canvas");
    paint(canvas, example.pixels);
    const what = example.held ? `${name}, kept aside for the test` : name;
    const button = make("button", { type: "button", title: `${what}: remove` }, canvas);
    button.setAttribute("aria-label", `Remove this example of ${what}`);
    button.classList.toggle("held", example.held);
    button.addEventListener("click", () => this.remove(example));
    return button;
  }
}

/** A thumbnail of what the network knew. */
function quiet(pixels) {
  const canvas = make("canvas", { className: "known" });
  canvas.setAttribute("aria-hidden", "true");
  paint(canvas, pixels);
  return canvas;
}

/** The data's own examples, which came with the page. */
function readKnown() {
  const { pixels, labels, held } = figures.known;
  const bytes = fromBase64(pixels);
  const size = PIXELS * CHANNELS;
  return labels.map((label, i) => ({
    id: `known ${i}`,
    pixels: bytes.subarray(i * size, (i + 1) * size),
    label,
    held: held[i],
  }));
}
