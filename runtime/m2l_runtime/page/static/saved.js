// Keep a drawing while its tab is open.

import { Mask } from "./mask.js";

const SAVED = "m2l-mask";

/** Keep the drawing for this tab, so that a reload does not lose it. */
export function saveMask(mask) {
  try {
    sessionStorage.setItem(
      SAVED,
      JSON.stringify([mask.width, mask.height, btoa(String.fromCharCode(...runs(mask.levels)))]),
    );
  } catch {
    // full or switched off: after a reload the drawing begins anew
  }
}

/** Lengths of runs of equal levels as bytes: level, then the length in two. */
function runs(levels) {
  const bytes = [];
  for (let from = 0, to = 0; from < levels.length; from = to) {
    while (to < levels.length && levels[to] === levels[from] && to - from < 65535) to++;
    bytes.push(levels[from], (to - from) & 255, (to - from) >> 8);
  }
  return bytes.length < 100_000 ? bytes : [];
}

/** The drawing that this tab kept; null: none of this size. */
export function savedMask(width, height) {
  try {
    const [wide, high, text] = JSON.parse(sessionStorage.getItem(SAVED));
    if (wide !== width || high !== height) return null;
    const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
    const levels = new Uint8Array(width * height);
    let at = 0;
    for (let run = 0; run < bytes.length; run += 3) {
      const length = bytes[run + 1] + 256 * bytes[run + 2];
      levels.fill(bytes[run], at, at + length);
      at += length;
    }
    return at === levels.length ? new Mask(width, height, levels) : null;
  } catch {
    return null; // nothing was saved
  }
}
