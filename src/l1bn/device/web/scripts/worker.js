// The network, in a thread of its own: the compiled runtime, and what it is shown.
"use strict";

const PAUSE = 25; // steps from test to test, and from save to save
const SAVED = ["", "", "", "it is of another network, or damaged", "it could not be read"];

let wasm; // what the runtime exports
let stopped = false;
let busy = false;

const reply = (message, moved = []) => self.postMessage(message, moved);
const bytesAt = (at, count) => new Int8Array(wasm.memory.buffer, at, count);
const logitsOf = (count) => Array.from(new Int32Array(wasm.memory.buffer, wasm.logits(), count));

/** Let messages in. */
function breathe() {
  return new Promise((resolve) => {
    const { port1, port2 } = new MessageChannel();
    port1.onmessage = () => {
      port1.close();
      resolve();
    };
    port2.postMessage(0);
  });
}

/** 32 random bits after `state`; never zero. */
function random(state) {
  state ^= state << 13;
  state ^= state >>> 17;
  return (state ^ (state << 5)) >>> 0;
}

/** An endless shuffle: every example once, then all of them again in another order. */
class Deck {
  constructor(examples, seed) {
    this.examples = examples;
    this.seed = seed;
    this.left = [];
  }

  next() {
    if (this.left.length === 0) {
      this.left = this.examples.map((_, i) => i);
      for (let i = this.left.length - 1; i > 0; i -= 1) {
        this.seed = random(this.seed);
        const j = this.seed % (i + 1);
        [this.left[i], this.left[j]] = [this.left[j], this.left[i]];
      }
    }
    return this.examples[this.left.pop()];
  }
}

/** Mean cross-entropy of a batch, for the curve alone: the network computes its own in integers. */
function lossOf(logits, labels, exponent, classes) {
  let total = 0;
  labels.forEach((label, n) => {
    const row = logits.slice(n * classes, (n + 1) * classes).map((v) => v * 2 ** exponent);
    const largest = Math.max(...row);
    total += Math.log(row.reduce((sum, v) => sum + Math.exp(v - largest), 0)) + largest - row[label];
  });
  return total / labels.length;
}

function infer(image, classes) {
  bytesAt(wasm.images(), image.length).set(image);
  wasm.infer();
  return logitsOf(classes);
}

/** How many examples the network tells right, among the classes that are in use. */
function test(examples, classes, used) {
  let right = 0;
  for (const { image, label } of examples) {
    const logits = infer(image, classes);
    let best = used[0];
    for (const c of used) if (logits[c] > logits[best]) best = c;
    right += best === label ? 1 : 0;
  }
  return [right, examples.length];
}

function save() {
  wasm.save();
  return new Uint8Array(wasm.memory.buffer, wasm.slot(), wasm.slot_size()).slice();
}

function step(batch, message) {
  const { rate, classes, size } = message;
  const images = bytesAt(wasm.images(), batch.length * size);
  batch.forEach(({ image }, n) => images.set(image, n * size));
  const labels = batch.map(({ label }) => label);
  new Uint16Array(wasm.memory.buffer, wasm.labels(), batch.length).set(labels);
  const start = performance.now();
  const status = wasm.train(rate);
  const ms = performance.now() - start;
  if (status !== 0) throw new Error(`the step was refused with status ${status}`);
  const logits = logitsOf(batch.length * classes);
  return { ms, loss: lossOf(logits, labels, wasm.exponent_train(), classes), labels, logits };
}

/** Up to half of a batch is a person's own, each at most once; the rest is what the network knew, so
 * that it does not forget. */
function deal([own, known], count) {
  const half = Math.min(count >> 1, own.examples.length);
  const mine = known.examples.length === 0 ? count : half;
  return Array.from({ length: count }, (_, n) => (n < mine ? own : known).next());
}

async function learn(message) {
  const { own, known, held, steps, batch, seed, classes, used } = message;
  const decks = [new Deck(own, seed), new Deck(known, random(seed))];
  const tested = () => ({
    own: test(held.own, classes, used),
    known: test(held.known, classes, used),
  });
  reply({ did: "test", step: 0, ...tested() });
  let done = 0;
  while (done < steps && !stopped) {
    const taken = deal(decks, batch);
    const { ms, loss, logits } = step(taken, message);
    done += 1;
    reply({ did: "step", step: done, loss, ms, logits, taken: taken.map(({ id }) => id) });
    if (done % PAUSE === 0 && done < steps) {
      reply({ did: "test", step: done, ...tested() });
      reply({ did: "saved", state: save() });
    }
    await breathe();
  }
  if (done > 0) reply({ did: "test", step: done, ...tested() });
  reply({ did: "learned", steps: done, state: save(), stopped });
}

const tasks = {
  async start({ code }) {
    const { instance } = await WebAssembly.instantiate(code);
    wasm = instance.exports;
    wasm.init();
    reply({
      did: "start",
      identity: wasm.identity() >>> 0,
      slot: wasm.slot_size(),
      memory: wasm.memory.buffer.byteLength,
    });
  },
  load({ state }) {
    let status = 0;
    if (state === null) wasm.init();
    else if (state.length !== wasm.slot_size()) status = 3;
    else {
      new Uint8Array(wasm.memory.buffer, wasm.slot(), state.length).set(state);
      status = wasm.load();
    }
    reply({ did: "load", status, reason: SAVED[status] });
  },
  infer({ image, classes, number }) {
    const logits = infer(image, classes);
    reply({ did: "infer", number, logits, exponent: wasm.exponent_infer() });
  },
  async learn(message) {
    if (busy) return;
    busy = true;
    stopped = false;
    try {
      await learn(message);
    } finally {
      busy = false;
    }
  },
  stop() {
    stopped = true;
  },
};

self.onmessage = async ({ data }) => {
  try {
    await tasks[data.do](data);
  } catch (error) {
    reply({ did: "failed", reason: String(error.message || error) });
  }
};
