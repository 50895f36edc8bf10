// Pictures from files and from the camera.

/** Files that wait to be given a class. */
class Files {
  constructor(shown) {
    this.shown = shown; // called with pixels, or with null when none is left
    this.waiting = [];
    $("files").addEventListener("change", (event) => this.take([...event.target.files]));
    const drop = $("drop");
    for (const name of ["dragover", "drop"])
      drop.addEventListener(name, (event) => event.preventDefault());
    drop.addEventListener("drop", (event) => this.take([...event.dataTransfer.files]));
  }

  async take(files) {
    const read = await Promise.allSettled(files.map((file) => createImageBitmap(file)));
    const failed = files.filter((_, i) => read[i].status === "rejected");
    if (failed.length > 0)
      say(`No picture that this browser reads: ${failed.map((f) => f.name).join(", ")}`, true);
    const images = read.filter((r) => r.status === "fulfilled").map((r) => r.value);
    this.waiting.push(...images.map((i) => ({ image: i, pixels: fromImage(i, i.width, i.height) })));
    this.show();
  }

  next() {
    this.waiting.shift();
    this.show();
  }

  show() {
    const first = this.waiting[0];
    const preview = $("preview");
    preview.hidden = first === undefined;
    if (first !== undefined) {
      Object.assign(preview, { width: first.image.width, height: first.image.height });
      preview.getContext("2d").drawImage(first.image, 0, 0);
    }
    $("waiting").textContent = this.waiting.length > 1 ? `${this.waiting.length} pictures wait` : "";
    this.shown(first?.pixels ?? null);
  }
}

/** The camera, looked at a few times a second while it is on. */
class Camera {
  constructor(shown) {
    this.shown = shown;
    this.video = $("video");
    this.timer = 0;
    this.turn = 0; // of on and off: a camera that comes too late goes off again
  }

  async start() {
    this.turn += 1;
    const { turn } = this;
    if (navigator.mediaDevices === undefined) {
      say("The camera needs a page from this device's own server or from https.", true);
      return;
    }
    try {
      const wanted = { video: { facingMode: "environment", width: 640, height: 480 } };
      const stream = await navigator.mediaDevices.getUserMedia(wanted);
      if (turn !== this.turn) {
        release(stream);
        return;
      }
      this.video.srcObject = stream;
      await this.video.play();
      if (turn === this.turn) this.timer = setInterval(() => this.look(), 250);
    } catch (error) {
      if (turn === this.turn) say(`No camera: ${error.message}`, true);
    }
  }

  look() {
    const { videoWidth, videoHeight } = this.video;
    if (videoWidth > 0) this.shown(fromImage(this.video, videoWidth, videoHeight));
  }

  stop() {
    this.turn += 1;
    clearInterval(this.timer);
    if (this.video.srcObject !== null) release(this.video.srcObject);
    this.video.srcObject = null;
  }
}

function release(stream) {
  for (const track of stream.getTracks()) track.stop();
}
