// Make images with the server that this page came from: POST /synthesize with the mask as PNG.

import { encodePng, pngText } from "./png.js";

const TIMEOUT_MS = 60_000;

/** The server did not answer, or is too busy: asking again later may help. */
export class ServerGone extends Error {
  constructor(message, retryAfterS) {
    super(message);
    this.retryAfterS = retryAfterS;
  }
}

/** The engine of the page where m2l serve runs. */
export class ServerEngine {
  constructor(config, base) {
    this.config = config;
    this.base = base;
    this.notes = [];
    this.isLocal = false;
  }

  async open() {}

  async check() {
    return null;
  }

  get label() {
    return `on the server (m2l ${this.config.version})`;
  }

  /** Synthesize an image: {pixels, seed, appearance, ms, png}; `png` are the server's own bytes. */
  async synthesize(mask, wanted) {
    const [height, width] = this.config.image_size;
    const began = performance.now();
    const answer = await this.#post(await encodePng(mask, width, height), wanted);
    if (!answer.ok) throw await problem(answer);
    const png = new Uint8Array(await answer.arrayBuffer());
    const ms = performance.now() - began;
    const text = pngText(png);
    return {
      pixels: await rgbOf(png, width, height),
      png,
      ms,
      seed: text["m2l-seed"] ?? null,
      appearance: this.#appearance(text["m2l-appearance"]),
    };
  }

  async #post(body, { seed, name, sample, choice }) {
    const query = new URLSearchParams({ format: "png" });
    if (this.config.is_random) {
      query.set("seed", String(seed));
      query.set("name", name);
      query.set("sample", String(sample));
      if (Object.keys(choice).length) query.set("appearance", JSON.stringify(choice));
    }
    try {
      return await fetch(new URL(`synthesize?${query}`, this.base), {
        method: "POST",
        headers: { "Content-Type": "image/png", Accept: "image/png" },
        body,
        signal: AbortSignal.timeout(TIMEOUT_MS),
      });
    } catch {
      throw new ServerGone("The server does not answer. Your drawing is kept.", null);
    }
  }

  #appearance(text) {
    if (!text || !this.config.appearance) return null;
    const numbers = Object.fromEntries(text.split(",").map((part) => part.split("=")));
    return Float32Array.from(this.config.appearance.names, (name) => Number(numbers[name]));
  }
}

async function problem(answer) {
  let words = `status ${answer.status}`;
  try {
    words = String((await answer.json()).error).slice(0, 400);
  } catch {
    // no JSON: the status has to do
  }
  if ([429, 502, 503, 504].includes(answer.status)) {
    const wait = Number(answer.headers.get("Retry-After"));
    return new ServerGone("The server is busy. Your drawing is kept.", Number.isFinite(wait) && wait > 0 ? wait : null);
  }
  return new Error(`The server refused the mask: ${words}`);
}

async function rgbOf(png, width, height) {
  const picture = await createImageBitmap(new Blob([png], { type: "image/png" }), { colorSpaceConversion: "none" });
  const canvas = new OffscreenCanvas(width, height);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(picture, 0, 0);
  const { data } = context.getImageData(0, 0, width, height);
  const pixels = new Uint8Array(width * height * 3);
  for (let from = 0, to = 0; from < data.length; from += 4, to += 3) pixels.set(data.subarray(from, from + 3), to);
  return pixels;
}
