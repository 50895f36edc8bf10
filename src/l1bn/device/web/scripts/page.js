// The page itself: what a person does, and what the network answers.

const EMPTY = () => ({ loss: [], own: [], known: [] });

class Page {
  constructor() {
    this.network = new Network((message) => this.heard(message));
    this.examples = new Examples(() => this.edited());
    this.pad = new Pad($("pad"), (strokes) =>
      this.look(strokes.length > 0 ? fromStrokes(strokes) : null),
    );
    this.files = new Files((pixels) => this.look(pixels));
    this.camera = new Camera((pixels) => this.look(pixels));
    this.pixels = null; // what is shown to the network
    this.curve = EMPTY();
    this.state = null; // what was learned; null: nothing yet
    this.times = [];
    this.learning = false;
  }

  async start() {
    this.examples.show();
    this.look(null);
    drawCurves(this.curve);
    const { identity, memory } = await this.network.start();
    this.store = new Store(identity);
    $("memory").title = `Of the page's WebAssembly memory of ${kib(memory)}`;
    const record = await this.store.load();
    if (record !== undefined && (await this.take(record)))
      say("Here again: it goes on where you left it.");
    this.listen();
    document.body.dataset.ready = "yes";
  }

  listen() {
    for (const input of document.querySelectorAll("input[name=source]"))
      input.addEventListener("change", () => this.turnTo(input.value));
    $("clear").addEventListener("click", () => this.pad.clear());
    $("undo").addEventListener("click", () => this.pad.undo());
    $("choices").addEventListener("click", (event) => this.choose(event.target.dataset.label));
    $("add-class").addEventListener("click", () => this.addClass());
    $("own-classes").addEventListener("click", () => this.begin("own"));
    $("learn").addEventListener("click", () => (this.learning ? this.stop() : this.learn()));
    $("export").addEventListener("click", () => this.export());
    $("export-state").addEventListener("click", () => this.exportState());
    $("import").addEventListener("change", (event) => this.import(event.target));
    $("over").addEventListener("click", () => this.begin("over"));
    document.addEventListener("keydown", (event) => this.key(event));
    addEventListener("resize", () => this.redraw());
  }

  /** A class by its first letter or digit, where nothing is being typed. */
  key(event) {
    const typing = event.target.matches("input:not([type=radio]), select, textarea");
    if (typing || event.ctrlKey || event.metaKey || event.altKey || event.key === " ") return;
    const found = this.examples.used.filter((label) =>
      this.examples.names[label].toLowerCase().startsWith(event.key.toLowerCase()),
    );
    if (event.key.length === 1 && found.length === 1) this.choose(found[0]);
  }

  turnTo(source) {
    for (const panel of document.querySelectorAll("[data-source]"))
      panel.hidden = panel.dataset.source !== source;
    this.camera.stop();
    this.look(null);
    if (source === "camera") this.camera.start();
    if (source === "draw") this.pad.update();
    if (source === "files") this.files.show();
  }

  get source() {
    return document.querySelector("input[name=source]:checked").value;
  }

  async look(pixels) {
    this.pixels = pixels;
    $("choices").classList.toggle("waiting", pixels === null);
    for (const button of $("choices").children) button.disabled = pixels === null;
    if (pixels === null) {
      paint($("shown"), new Uint8Array(PIXELS * CHANNELS).fill(figures.dark ? 0 : 255));
      $("guess").textContent = "–";
      $("bars").replaceChildren();
      return;
    }
    paint($("shown"), pixels);
    if (document.body.dataset.ready !== "yes") return;
    const { logits, exponent } = await this.network.infer(pixels);
    if (this.pixels === pixels) this.tell(logits.map((v) => v * 2 ** exponent));
  }

  tell(logits) {
    const { used, names } = this.examples;
    const largest = Math.max(...used.map((label) => logits[label]));
    const powers = used.map((label) => Math.exp(logits[label] - largest));
    const total = powers.reduce((sum, v) => sum + v, 0);
    const ranked = used
      .map((label, i) => [names[label], powers[i] / total])
      .sort(([, a], [, b]) => b - a);
    $("guess").textContent = ranked[0][0];
    const bars = ranked.slice(0, 5).map(([name, share]) => {
      const bar = make("span", { className: "bar" });
      bar.style.setProperty("--share", share);
      const value = make("span", { className: "share", textContent: percent(share) });
      return make("li", {}, make("span", { className: "name", textContent: name }), bar, value);
    });
    $("bars").replaceChildren(...bars);
  }

  choose(label) {
    if (label === undefined || this.pixels === null) return;
    const name = this.examples.names[label];
    this.examples.add(this.pixels, Number(label));
    const { held } = this.examples.own.at(-1);
    say(held ? `Kept aside to test “${name}”.` : `Added to “${name}”.`);
    if (this.source === "draw") this.pad.clear();
    if (this.source === "files") this.files.next();
  }

  addClass() {
    const { names, used } = this.examples;
    const free = names.findIndex((name) => name === "");
    this.examples.rename(free, `class ${used.length + 1}`);
    const inputs = $("classes").querySelectorAll("input");
    inputs[this.examples.used.indexOf(free)].select();
  }

  /** Forget: what was learned, and for classes of one's own the examples and names too. */
  async begin(how) {
    const what =
      how === "own"
        ? "Forget all names, examples and what was learned, and begin with classes of your own?"
        : "Forget what you have shown and what was learned?";
    if (this.learning || !confirm(what)) return;
    await this.network.load(null);
    this.state = null;
    this.showCurve(EMPTY());
    if (how === "own") this.examples.anew();
    else {
      this.examples.restore({ names: figures.classes, examples: [] });
      await this.store.clear();
    }
    this.look(this.pixels);
    say(how === "own" ? "Name your classes, and show a few examples of each." : "As it came.");
  }

  learn() {
    const prepared = this.examples.prepared();
    if (prepared.own.length + prepared.known.length === 0) {
      say("Show it a few examples first.", true);
      return;
    }
    const steps = Number($("steps").value);
    this.first = this.curve.loss.at(-1)?.[0] ?? 0;
    this.times = [];
    this.total = steps;
    this.turn(true);
    const seed = this.first + 1;
    this.network.learn({ ...prepared, steps, seed, rate: Number($("rate").value) });
  }

  stop() {
    this.network.stop();
    $("learn").disabled = true;
  }

  turn(on) {
    this.learning = on;
    $("learn").textContent = on ? "Stop" : "Learn";
    $("learn").classList.toggle("stop", on);
    $("learn").disabled = false;
    for (const id of ["import", "over", "own-classes"]) $(id).disabled = on;
    if (on) {
      $("bar").value = 0;
      $("bar").max = this.total;
    }
  }

  heard(message) {
    const hear = {
      step: () => this.stepped(message),
      test: () => this.tested(message),
      saved: () => this.keep(message.state),
      learned: () => this.learned(message),
      failed: () => {
        this.turn(false);
        say(`It failed: ${message.reason}`, true);
      },
    };
    hear[message.did]?.();
  }

  stepped({ step, loss, ms }) {
    this.curve.loss.push([this.first + step, loss]);
    this.times.push(ms);
    $("bar").value = step;
    const recent = this.times.slice(-50).sort((a, b) => a - b);
    $("time").textContent = `${recent[recent.length >> 1].toFixed(1)} ms`;
    $("done").textContent = String(this.first + step);
    this.redraw();
  }

  tested({ step, own, known }) {
    for (const [name, [right, count]] of Object.entries({ own, known })) {
      $(`${name}-right`).textContent = count > 0 ? `${right} of ${count}` : "–";
      if (count > 0) this.curve[name].push([this.first + step, right / count]);
    }
    this.redraw();
  }

  /** Once a frame: steps may come faster. */
  redraw() {
    if (this.drawing) return;
    this.drawing = true;
    requestAnimationFrame(() => {
      this.drawing = false;
      drawCurves(this.curve);
    });
  }

  async learned({ steps, state, stopped }) {
    this.turn(false);
    await this.keep(state);
    say(`${stopped ? "Stopped after" : "Learned in"} ${steps} steps; kept in this browser.`);
    this.look(this.pixels);
  }

  edited() {
    this.keep(this.state);
    this.look(this.pixels);
  }

  get record() {
    const { names, own } = this.examples;
    const examples = own.map(({ pixels, label, held }) => ({ pixels, label, held }));
    return { names, examples, curve: this.curve, state: this.state };
  }

  async keep(state) {
    this.state = state;
    await this.store?.save(this.record);
    document.body.dataset.kept = String(Number(document.body.dataset.kept ?? 0) + 1);
  }

  /** Take over a record; say why where it is refused. */
  async take(record) {
    if (record.state !== null) {
      const { status, reason } = await this.network.load(record.state);
      if (status !== 0) {
        say(`Not taken: ${reason}.`, true);
        return false;
      }
    }
    this.state = record.state;
    if (record.names !== undefined) this.examples.restore(record);
    this.showCurve(record.curve ?? EMPTY());
    this.look(this.pixels);
    return true;
  }

  /** Show another curve than that of this session. */
  showCurve(curve) {
    this.curve = curve;
    $("done").textContent = String(curve.loss.at(-1)?.[0] ?? 0);
    for (const name of ["own", "known"]) {
      const last = curve[name].at(-1);
      $(`${name}-right`).textContent = last === undefined ? "–" : percent(last[1]);
    }
    $("time").textContent = "–";
    $("bar").value = 0;
    drawCurves(curve);
  }

  export() {
    if (this.state === null) say("Nothing is learned yet.", true);
    else offer("learned.json", toFile(this.record), "application/json");
  }

  exportState() {
    if (this.state === null) say("Nothing is learned yet.", true);
    else offer("state.bin", this.state, "application/octet-stream");
  }

  async import(input) {
    const [file] = input.files;
    input.value = "";
    if (file === undefined) return;
    try {
      const record = await fromFile(file);
      if (this.learning) throw new Error("stop learning first"); // the dialog was open before
      if (!(await this.take(record))) return;
      await this.keep(this.state);
      say(`Taken over from ${file.name}.`);
    } catch (error) {
      say(`Not taken: ${error.message}.`, true);
    }
  }
}

new Page().start().catch((error) => say(`This browser cannot run it: ${error.message}`, true));
