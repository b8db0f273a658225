// Write PNG files, and read the text and the size in them (W3C PNG, third edition).
//
// A canvas could write them too, but some browsers alter its pixels against fingerprinting.

import { crc32, join } from "./zip.js";

const SIGNATURE = [137, 80, 78, 71, 13, 10, 26, 10];
const GRAY = 0;
const RGB = 2;

function chunk(kind, content) {
  const body = join([new TextEncoder().encode(kind), content]);
  const bytes = new DataView(new ArrayBuffer(8 + body.length));
  bytes.setUint32(0, content.length);
  new Uint8Array(bytes.buffer).set(body, 4);
  bytes.setUint32(4 + body.length, crc32(body));
  return new Uint8Array(bytes.buffer);
}

async function deflate(bytes) {
  const stream = new Blob([bytes]).stream().pipeThrough(new CompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

/**
 * Encode levels as PNG.
 *
 * @param {Uint8Array} levels width * height of grey, or three times as many of RGB
 * @param {object} text keyword to Latin-1 text, which programs show
 * @returns {Promise<Uint8Array>}
 */
export async function encodePng(levels, width, height, text = {}) {
  const channels = levels.length / (width * height);
  const row = width * channels;
  const lines = new Uint8Array((row + 1) * height); // filter 0 before each row
  for (let y = 0; y < height; y++) lines.set(levels.subarray(y * row, (y + 1) * row), y * (row + 1) + 1);
  const head = new DataView(new ArrayBuffer(13));
  head.setUint32(0, width);
  head.setUint32(4, height);
  head.setUint8(8, 8);
  head.setUint8(9, channels === 1 ? GRAY : RGB);
  const words = Object.entries(text).map(([key, value]) => chunk("tEXt", latin1(`${key}\0${value}`)));
  const pixels = chunk("IDAT", await deflate(lines));
  const none = new Uint8Array();
  return join([
    Uint8Array.from(SIGNATURE),
    chunk("IHDR", new Uint8Array(head.buffer)),
    ...words,
    pixels,
    chunk("IEND", none),
  ]);
}

function latin1(text) {
  return Uint8Array.from(text, (letter) => (letter.charCodeAt(0) < 256 ? letter.charCodeAt(0) : 63));
}

/** Read the tEXt of a PNG: keyword to text. What is no PNG has none. */
export function pngText(bytes) {
  const found = {};
  if (!SIGNATURE.every((byte, at) => bytes[at] === byte)) return found;
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  for (let at = 8; at + 12 <= bytes.length;) {
    const size = view.getUint32(at);
    if (size > bytes.length - at - 12) break;
    const kind = String.fromCharCode(...bytes.subarray(at + 4, at + 8));
    if (kind === "tEXt") {
      const letters = Array.from(bytes.subarray(at + 8, at + 8 + size), (byte) => String.fromCharCode(byte)).join("");
      const end = letters.indexOf("\0");
      if (end > 0) found[letters.slice(0, end)] = letters.slice(end + 1);
    }
    at += 12 + size;
  }
  return found;
}
