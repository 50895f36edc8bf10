// What every part of the page takes.

const figures = JSON.parse(document.getElementById("figures").textContent);
const [HEIGHT, WIDTH, CHANNELS] = figures.shape;
const PIXELS = HEIGHT * WIDTH;
const CLASSES = figures.classes.length;

const $ = (id) => document.getElementById(id);

/** A new element with properties and children. */
function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

function fromBase64(text) {
  return Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
}

function toBase64(bytes) {
  let text = "";
  for (let at = 0; at < bytes.length; at += 8192)
    text += String.fromCharCode(...bytes.subarray(at, at + 8192));
  return btoa(text);
}

const percent = (share) => `${Math.round(100 * share)} %`;
const kib = (bytes) => `${(bytes / 1024).toFixed(bytes < 10240 ? 1 : 0)} KiB`;

/** Say something to whoever looks and to whoever listens; it fades, and never takes a click. */
function say(text, wrong = false) {
  const message = $("message");
  message.textContent = text;
  message.classList.toggle("wrong", wrong);
  message.getAnimations().forEach((animation) => animation.cancel());
  const seconds = wrong ? 9 : 4;
  const fading = [{ opacity: 1 }, { opacity: 1, offset: 0.9 }, { opacity: 0 }];
  message.animate(fading, { duration: 1000 * seconds, fill: "forwards" });
}
