// What is kept: in this browser, so that a reload goes on, and in files.

const FORMAT = "l1bn page 1";

/** One record for each network. Where the browser keeps nothing, the page still works. */
class Store {
  constructor(identity) {
    this.key = identity;
    this.database = new Promise((resolve, reject) => {
      const request = indexedDB.open("l1bn", 1);
      request.onupgradeneeded = () => request.result.createObjectStore("kept");
      request.onsuccess = () => resolve(request.result);
      request.onerror = () => reject(request.error);
    });
    this.database.catch(() => say("This browser keeps nothing: export what it learns.", true));
  }

  async do(mode, act) {
    const database = await this.database;
    return new Promise((resolve, reject) => {
      const transaction = database.transaction("kept", mode);
      const request = act(transaction.objectStore("kept"));
      transaction.oncomplete = () => resolve(request.result);
      transaction.onabort = () => reject(transaction.error);
    });
  }

  load() {
    return this.do("readonly", (kept) => kept.get(this.key)).catch(() => undefined);
  }

  save(record) {
    return this.do("readwrite", (kept) => kept.put(record, this.key)).catch((error) =>
      say(`Not kept: ${error?.message ?? "the browser refused"}. Export what was learned.`, true),
    );
  }

  clear() {
    return this.do("readwrite", (kept) => kept.delete(this.key)).catch(() => undefined);
  }
}

/** Give a file to the person. */
function offer(name, content, type) {
  const address = URL.createObjectURL(new Blob([content], { type }));
  make("a", { href: address, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(address), 10000);
}

function toFile({ names, examples, curve, state }) {
  const packed = examples.map(({ pixels, label, held }) => ({
    pixels: toBase64(pixels),
    label,
    held,
  }));
  return JSON.stringify({ format: FORMAT, names, examples: packed, curve, state: toBase64(state) });
}

/** Read an exported file: of this page, or the bare state of a device.
 *
 * Returns a record whose fields are missing where the file has none. Throws where it is neither. */
async function fromFile(file) {
  const bytes = new Uint8Array(await file.arrayBuffer());
  if (bytes[0] !== 0x7b) return { state: bytes };
  const { format, names, examples, curve, state } = JSON.parse(new TextDecoder().decode(bytes));
  if (format !== FORMAT) throw new Error(`expected "${FORMAT}", got ${JSON.stringify(format)}`);
  const unpacked = examples.map(({ pixels, label, held }) => ({
    pixels: fromBase64(pixels),
    label,
    held: held === true,
  }));
  const good = ({ pixels, label }) =>
    pixels.length === PIXELS * CHANNELS && Number.isInteger(label) && label in names;
  if (names.length !== CLASSES || !names.every((name) => typeof name === "string"))
    throw new Error(`expected ${CLASSES} names of classes`);
  if (!unpacked.every(good)) throw new Error("its examples are of another network");
  return { names, examples: unpacked, curve: checkedCurve(curve), state: fromBase64(state) };
}

function checkedCurve(curve) {
  const line = (points) => points.map(([x, y]) => [Number(x), Number(y)]);
  return { loss: line(curve.loss), own: line(curve.own), known: line(curve.known) };
}
