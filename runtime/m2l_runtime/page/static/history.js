// Undo and redo: what a mask was before each step, eight pixels a byte where it has no greys.

const MAX_STEPS = 200;

function pack(levels) {
  if (levels.some((level) => level !== 0 && level !== 255)) return { levels: levels.slice() };
  const bits = new Uint8Array(Math.ceil(levels.length / 8));
  levels.forEach((level, place) => (bits[place >> 3] |= (level & 1) << (place & 7)));
  return { bits };
}

function unpack({ bits, levels }, size) {
  if (levels) return levels.slice();
  return Uint8Array.from({ length: size }, (_, place) => ((bits[place >> 3] >> (place & 7)) & 1) * 255);
}

/** The steps of one mask. */
export class History {
  constructor() {
    this.past = [];
    this.future = [];
  }

  /** Keep what the mask is, before a step changes it. */
  keep(mask) {
    this.past.push(pack(mask.levels));
    if (this.past.length > MAX_STEPS) this.past.shift();
    this.future = [];
  }

  get canUndo() {
    return this.past.length > 0;
  }

  get canRedo() {
    return this.future.length > 0;
  }

  /** Go back a step; false if there is none. */
  undo(mask) {
    return this.#move(this.past, this.future, mask);
  }

  /** Take a step again; false if there is none. */
  redo(mask) {
    return this.#move(this.future, this.past, mask);
  }

  #move(from, to, mask) {
    const step = from.pop();
    if (step === undefined) return false;
    to.push(pack(mask.levels));
    mask.levels = unpack(step, mask.levels.length);
    return true;
  }
}
