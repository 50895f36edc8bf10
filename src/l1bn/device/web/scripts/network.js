// The worker's other side.

class Network {
  /** Calls `heard(message)` for all that is no answer to a question of its own. */
  constructor(heard) {
    const source = $("worker").textContent;
    const address = URL.createObjectURL(new Blob([source], { type: "text/javascript" }));
    this.worker = new Worker(address);
    this.answers = new Map();
    this.count = 0;
    this.worker.onmessage = ({ data }) => {
      document.dispatchEvent(new CustomEvent("l1bn", { detail: data }));
      const key = data.did === "infer" ? `infer ${data.number}` : data.did;
      const answer = this.answers.get(key);
      this.answers.delete(key);
      if (answer !== undefined) answer(data);
      else heard(data);
    };
    this.worker.onerror = (event) => heard({ did: "failed", reason: event.message });
  }

  ask(key, message) {
    return new Promise((resolve) => {
      this.answers.set(key, resolve);
      this.worker.postMessage(message);
    });
  }

  start() {
    return this.ask("start", { do: "start", code: fromBase64($("code").textContent.trim()) });
  }

  /** Take over a state, or with null the one that it came with. */
  load(state) {
    return this.ask("load", { do: "load", state });
  }

  infer(pixels) {
    this.count += 1;
    const message = { do: "infer", image: encode(pixels), classes: CLASSES, number: this.count };
    return this.ask(`infer ${this.count}`, message);
  }

  learn(message) {
    const rate = Math.round(message.rate * 65536);
    const sizes = { classes: CLASSES, size: PIXELS * CHANNELS, batch: figures.batch };
    this.worker.postMessage({ do: "learn", ...message, ...sizes, rate });
  }

  stop() {
    this.worker.postMessage({ do: "stop" });
  }
}
