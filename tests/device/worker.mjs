// Runs the page's worker in Node: node worker.mjs page.html < message per line; answers per line.
import { readFileSync } from "node:fs";
import vm from "node:vm";

const page = readFileSync(process.argv[2], "utf8");
const part = (id) => new RegExp(`<script [^>]*id="${id}">([\\s\\S]*?)</script>`).exec(page)[1];

let quiet;
const self = {
  postMessage(message) {
    const plain = (_, value) => (ArrayBuffer.isView(value) ? Array.from(value) : value);
    process.stdout.write(`${JSON.stringify(message, plain)}\n`);
    if (!["step", "test", "saved"].includes(message.did)) quiet();
  },
};
const given = { self, WebAssembly, MessageChannel, performance, Uint8Array, Int8Array };
vm.runInNewContext(part("worker"), { ...given, Uint16Array, Int32Array, Uint32Array });

async function ask(message) {
  const answered = new Promise((resolve) => (quiet = resolve));
  await self.onmessage({ data: message });
  await answered;
}

await ask({ do: "start", code: Buffer.from(part("code").trim(), "base64") });
for (const line of readFileSync(0, "utf8").trim().split("\n")) await ask(JSON.parse(line));
