// Show several images of one mask beside one another, and let one be chosen.

import { drawPixels } from "./result.js";

const WAIT_MS = 40;

/** The grid of samples 1 to `count` of a mask. */
export class Variations {
  constructor(place, count, [height, width], { synthesize, isBusy, choose, fail, done }) {
    Object.assign(this, { place, count, width, height, synthesize, isBusy, choose, fail, done });
    this.version = 0;
  }

  get isShown() {
    return !this.place.hidden;
  }

  /** Empty the grid: the mask or the settings are others now. */
  hide() {
    this.version++;
    this.place.hidden = true;
    this.place.replaceChildren();
  }

  mark(sample) {
    for (const button of this.place.children)
      button.setAttribute("aria-pressed", String(Number(button.dataset.sample) === sample));
  }

  /** Make them all, one after another; the page's own image goes first. */
  async make(mask, wanted) {
    this.hide();
    const { version } = this;
    this.place.hidden = false;
    const tiles = Array.from({ length: this.count }, (_, at) => this.#tile(at + 1));
    this.place.replaceChildren(...tiles.map(({ button }) => button));
    this.mark(wanted.sample);
    for (const { button, canvas, sample } of tiles) {
      while (this.isBusy() && version === this.version) await new Promise((resolve) => setTimeout(resolve, WAIT_MS));
      if (version !== this.version) return;
      let made;
      try {
        made = await this.synthesize(mask, { ...wanted, sample });
      } catch (error) {
        if (version === this.version) this.fail(error);
        return;
      }
      if (version !== this.version) return;
      drawPixels(canvas, made.pixels);
      button.disabled = false;
      button.setAttribute("aria-label", `Variation ${sample}`);
      button.addEventListener("click", () => {
        this.mark(sample);
        this.choose(made, { mask, wanted: { ...wanted, sample } });
      });
    }
    this.done();
  }

  #tile(sample) {
    const button = Object.assign(document.createElement("button"), { type: "button", disabled: true });
    button.dataset.sample = sample;
    button.setAttribute("aria-label", `Variation ${sample}, not there yet`);
    const canvas = Object.assign(document.createElement("canvas"), { width: this.width, height: this.height });
    const number = Object.assign(document.createElement("span"), { textContent: sample });
    button.append(canvas, number);
    return { button, canvas, sample };
  }
}
