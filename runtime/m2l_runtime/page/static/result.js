// Show an image, and compare it with the mask, its outline, or an image that was kept.

/** The canvas of images, and the one over it that a slider uncovers. */
export class ResultView {
  constructor({ canvas, over, wipe, wipeLabel, compare }, width, height) {
    Object.assign(this, { canvas, over, wipe, wipeLabel, compare, width, height });
    for (const one of [canvas, over]) [one.width, one.height] = [width, height];
    this.pixels = null;
    this.kept = null;
    this.mask = null;
    wipe.addEventListener("input", () => this.#cut());
    compare.addEventListener("change", () => this.repaint());
  }

  show(pixels, mask) {
    this.pixels = pixels;
    this.mask = mask;
    drawPixels(this.canvas, pixels);
    this.repaint();
  }

  /** Keep the image that is shown, to compare later ones with. */
  keep() {
    this.kept = this.pixels;
    this.compare.value = "before";
    this.repaint();
  }

  repaint() {
    const mode = this.pixels === null ? "none" : this.compare.value;
    const drawn = { mask: () => this.#maskPixels(), outline: () => this.#outlinePixels(), before: () => this.kept }[
      mode
    ]?.();
    this.over.hidden = !drawn;
    this.wipeLabel.hidden = !drawn || mode === "outline";
    if (drawn) drawPixels(this.over, drawn);
    this.#cut();
  }

  #cut() {
    const share = this.compare.value === "outline" ? 100 : Number(this.wipe.value);
    this.over.style.clipPath = `inset(0 ${100 - share}% 0 0)`;
  }

  #maskPixels() {
    return Uint8Array.from({ length: this.mask.length * 3 }, (_, at) => this.mask[Math.trunc(at / 3)]);
  }

  /** The image, with the edge of the lesion drawn in. */
  #outlinePixels() {
    const { width, height, mask } = this;
    const pixels = this.pixels.slice();
    const isLesion = (x, y) => x >= 0 && y >= 0 && x < width && y < height && mask[y * width + x] >= 128;
    for (let y = 0; y < height; y++) {
      for (let x = 0; x < width; x++) {
        if (!isLesion(x, y)) continue;
        if (isLesion(x - 1, y) && isLesion(x + 1, y) && isLesion(x, y - 1) && isLesion(x, y + 1)) continue;
        pixels.set([64, 255, 214], (y * width + x) * 3);
      }
    }
    return pixels;
  }
}

/** Draw RGB levels on a canvas of their size. */
export function drawPixels(canvas, pixels) {
  const context = canvas.getContext("2d");
  const picture = context.createImageData(canvas.width, canvas.height);
  for (let from = 0, to = 0; from < pixels.length; from += 3, to += 4) {
    picture.data[to] = pixels[from];
    picture.data[to + 1] = pixels[from + 1];
    picture.data[to + 2] = pixels[from + 2];
    picture.data[to + 3] = 255;
  }
  context.putImageData(picture, 0, 0);
}
