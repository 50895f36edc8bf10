// Runs a trial in Node: node wasm.mjs trial.wasm
import { readFileSync } from "node:fs";

const { instance } = await WebAssembly.instantiate(readFileSync(process.argv[2]), {
  page: {
    write(at) {
      const bytes = new Uint8Array(instance.exports.memory.buffer);
      process.stdout.write(Buffer.from(bytes.subarray(at, bytes.indexOf(0, at))));
    },
  },
});
process.exitCode = instance.exports.trial();
