// Make what a generator takes beside the mask, bit for bit as m2l_runtime.conditioning.conditions does.

import { itemSeed, randomBytes, randomUint64 } from "./philox.js";

const MIDDLE_L = 50;
const INVERSES = [0, 1, 2, 3, 4, 6, 5, 7]; // orientations that undo each

/** Samples appearances from a bundle's table; see AppearanceSampler of the runtime. */
export class AppearanceSampler {
  /**
   * @param {object} appearance of the page's config: names, nearest_fraction, skin_tone
   * @param {object} about of the table: count, deviations, angle_deviation
   * @param {ArrayBuffer} content float32 rows, then, at a multiple of 8, the float64 angle of each row's skin
   */
  constructor(appearance, about, content) {
    this.names = appearance.names;
    this.count = about.count;
    this.fraction = appearance.nearest_fraction;
    this.deviations = about.deviations;
    this.angleDeviation = about.angle_deviation;
    this.table = new Float32Array(content, 0, this.count * this.names.length);
    const after = Math.ceil(this.table.byteLength / 8) * 8;
    this.angles = this.angleDeviation === null ? null : new Float64Array(content, after, this.count);
    this.skin = appearance.skin_tone ? appearance.skin_tone.replaces.map((name) => this.names.indexOf(name)) : null;
    this.orders = new Map();
  }

  /** Sample an appearance: Float32Array. `choice` maps names, and "ita", to numbers. */
  sample(seed, choice = {}) {
    const given = this.names.map((name, place) => [place, choice[name]]).filter(([, number]) => number !== undefined);
    const rows = this.#candidates(given, choice.ita);
    const pick = Number(randomUint64(seed, "appearance") % BigInt(rows === null ? this.count : rows.length));
    const width = this.names.length;
    const start = (rows === null ? pick : rows[pick]) * width;
    const row = this.table.slice(start, start + width);
    for (const [place, number] of given) row[place] = number;
    if (choice.ita !== undefined)
      [row[this.skin[0]], row[this.skin[1]]] = turnTo(choice.ita, ...this.skin.map((at) => row[at]));
    return row;
  }

  /** Rows of the training images nearest in what is given; null: all. */
  #candidates(given, angle) {
    if (!given.length && angle === undefined) return null;
    const key = JSON.stringify([given, angle]);
    if (this.orders.has(key)) return this.orders.get(key);
    const numbers = given.map(([, number]) => Math.fround(number));
    const distances = new Float64Array(this.count);
    for (let row = 0; row < this.count; row++) {
      const squares = given.map(([place], at) => {
        const apart = (this.table[row * this.names.length + place] - numbers[at]) / this.deviations[place];
        return apart * apart;
      });
      if (angle !== undefined) {
        const apart = (this.angles[row] - angle) / this.angleDeviation;
        squares.push(apart * apart);
      }
      distances[row] = sumAsNumpy(squares, angle !== undefined);
    }
    const order = Array.from(distances.keys()).sort((a, b) => distances[a] - distances[b] || a - b);
    const nearest = order.slice(0, Math.max(1, Math.trunc(this.count * this.fraction)));
    if (this.orders.size > 64) this.orders.clear();
    this.orders.set(key, nearest);
    return nearest;
  }
}

/** Add up in the order in which NumPy adds a row: one by one, or in eight sums where a long row is contiguous. */
function sumAsNumpy(terms, isContiguous) {
  if (!isContiguous || terms.length < 8) return terms.reduce((sum, term) => sum + term);
  const sums = terms.slice(0, 8);
  let at = 8;
  for (; at + 8 <= terms.length; at += 8) for (let lane = 0; lane < 8; lane++) sums[lane] += terms[at + lane];
  let sum = sums[0] + sums[1] + (sums[2] + sums[3]) + (sums[4] + sums[5] + (sums[6] + sums[7]));
  for (; at < terms.length; at++) sum += terms[at];
  return sum;
}

/** Turn a color (L*, b*) onto an individual typology angle in degrees; its distance from (50, 0) stays. */
export function turnTo(angle, lightness, yellow) {
  const radians = (angle * Math.PI) / 180;
  const [rise, run] = [Math.sin(radians), Math.cos(radians)];
  const apart = Math.hypot(lightness - MIDDLE_L, yellow);
  const distance = rise ? Math.min(apart, MIDDLE_L / Math.abs(rise)) : apart;
  return [MIDDLE_L + distance * rise, distance * run];
}

/** Draw an orientation with an item's seed: 0..7 for squares, 0..3 for others. Its bits: 4 transposes, 1 and 2 flip. */
export function drawOrientation(seed, [height, width]) {
  return Number(randomUint64(seed, "orientation") % (height === width ? 8n : 4n));
}

/** Rotate and flip a mask of [height, width] as an orientation says. */
export function orient(mask, size, orientation) {
  return turned(mask, size, 1, orientation);
}

/** Undo `orient` of an image of [height, width] and three channels. */
export function orientBack(pixels, size, orientation) {
  return turned(pixels, size, 3, INVERSES[orientation]);
}

function turned(pixels, [height, width], channels, orientation) {
  if (orientation === 0) return pixels;
  const made = new pixels.constructor(pixels.length);
  const isTransposed = (orientation & 4) !== 0;
  for (let row = 0; row < height; row++) {
    for (let column = 0; column < width; column++) {
      const flippedRow = orientation & 1 ? height - 1 - row : row;
      const flippedColumn = orientation & 2 ? width - 1 - column : column;
      const from = (isTransposed ? flippedColumn * width + flippedRow : flippedRow * width + flippedColumn) * channels;
      const to = (row * width + column) * channels;
      for (let channel = 0; channel < channels; channel++) made[to + channel] = pixels[from + channel];
    }
  }
  return made;
}

/**
 * Make the inputs of one image beside the mask.
 *
 * @param {object[]} specs the config's inputs: name, role, dtype, shape
 * @param {{seed: bigint, name: string, sample: number, choice: object}} wanted
 * @param {AppearanceSampler|null} sampler
 * @returns {{seed: bigint, appearance: Float32Array|null, arrays: object}} arrays by the input's name
 */
export function extraInputs(specs, wanted, sampler) {
  const seed = itemSeed(wanted.seed, wanted.name, wanted.sample);
  const arrays = {};
  let appearance = null;
  for (const { name, role, shape } of specs) {
    if (role === "appearance") arrays[name] = appearance = sampler.sample(seed, wanted.choice);
    else if (role !== "mask") arrays[name] = randomBytes(seed, shape[1], role);
  }
  return { seed, appearance, arrays };
}
