// Make random numbers from a seed and names, bit for bit those of m2l_runtime.conditioning.random.
//
// Key: BLAKE2b of the seed and the names. Stream: Philox 4x64-10, from Salmon, Moraes, Dror and Shaw, "Parallel random
// numbers: as easy as 1, 2, 3", SC 2011, counting from 1 as NumPy does. In 32-bit pieces, as BigInt takes ten times as
// long for the noise of an image.

import { blake2b } from "./blake2b.js";

const M0 = [0xd2e7470e, 0xe14c6c93];
const M1 = [0xca5a8263, 0x95121157];
const WEYL = [0x9e3779b97f4a7c15n, 0xbb67ae8584caa73bn];
const ROUNDS = 10;

/** Make `size` bytes, uniform in 0..255, for one purpose: seed a BigInt, names strings (text) or numbers (integers). */
export function randomBytes(seed, size, ...names) {
  const keys = roundKeys(streamKey(seed, names));
  const blocks = Math.ceil(size / 32);
  const words = new Uint32Array(blocks * 8);
  for (let block = 0; block < blocks; block++) philoxBlock(keys, block + 1, words, block * 8);
  return new Uint8Array(words.buffer, 0, size); // every browser's machine is little-endian
}

/** Make one number, a BigInt uniform in 0..2^64-1. */
export function randomUint64(seed, ...names) {
  return new DataView(randomBytes(seed, 8, ...names).buffer).getBigUint64(0, true);
}

/** Derive the seed of an image from the run's seed, the mask's name and the number of the sample, from 1. */
export function itemSeed(seed, name, sample) {
  return randomUint64(seed, "item", name, sample);
}

function streamKey(seed, names) {
  const kinds = names.map((name) => (typeof name === "number" ? `int ${name}` : `str ${name}`));
  const parts = [String(seed), ...kinds].map((word) => new TextEncoder().encode(word));
  const message = new Uint8Array(parts.reduce((sum, part) => sum + 8 + part.length, 0));
  let at = 0;
  for (const part of parts) {
    new DataView(message.buffer).setUint32(at, part.length, true);
    message.set(part, at + 8);
    at += 8 + part.length;
  }
  const digest = new DataView(blake2b(message, 16).slice().buffer);
  return [digest.getBigUint64(0, true), digest.getBigUint64(8, true)];
}

function roundKeys(key) {
  const keys = new Uint32Array(ROUNDS * 4);
  for (let round = 0; round < ROUNDS; round++) {
    key.forEach((word, place) => {
      const bumped = BigInt.asUintN(64, word + BigInt(round) * WEYL[place]);
      keys[round * 4 + place * 2] = Number(bumped >> 32n);
      keys[round * 4 + place * 2 + 1] = Number(bumped & 0xffffffffn);
    });
  }
  return keys;
}

/** High 32 bits of the product of two 32-bit numbers; each partial product fits a double. */
function high32(a, b) {
  const upper = (a >>> 16) * b;
  const lower = (a & 0xffff) * b;
  return Math.floor((upper + Math.floor(lower / 65536)) / 65536) >>> 0;
}

const product = new Uint32Array(4);

/** Multiply 64 by 64 bits into `product`, four words, the highest first. */
function multiply([mh, ml], xh, xl) {
  const lowHigh = high32(ml, xl);
  const middle = lowHigh + (Math.imul(mh, xl) >>> 0) + (Math.imul(ml, xh) >>> 0);
  const upper = high32(mh, xl) + high32(ml, xh) + (Math.imul(mh, xh) >>> 0) + Math.floor(middle / 4294967296);
  product[3] = Math.imul(ml, xl);
  product[2] = middle;
  product[1] = upper;
  product[0] = high32(mh, xh) + Math.floor(upper / 4294967296);
}

function philoxBlock(keys, counter, out, at) {
  let [c0h, c0l, c1h, c1l, c2h, c2l, c3h, c3l] = [0, counter, 0, 0, 0, 0, 0, 0];
  for (let k = 0; k < ROUNDS * 4; k += 4) {
    multiply(M0, c0h, c0l);
    const [h0h, h0l, l0h, l0l] = product;
    multiply(M1, c2h, c2l);
    c0h = (product[0] ^ c1h ^ keys[k]) >>> 0;
    c0l = (product[1] ^ c1l ^ keys[k + 1]) >>> 0;
    [c1h, c1l] = [product[2], product[3]];
    c2h = (h0h ^ c3h ^ keys[k + 2]) >>> 0;
    c2l = (h0l ^ c3l ^ keys[k + 3]) >>> 0;
    [c3h, c3l] = [l0h, l0l];
  }
  out.set([c0l, c0h, c1l, c1h, c2l, c2h, c3l, c3h], at);
}
