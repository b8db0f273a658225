// Units of the page's modules. `node --test`; M2L_STATIC is the folder of the modules, M2L_GOLDEN a JSON file of what
// Python computes (tests/runtime/page/test_modules.py writes it), M2L_OUT a folder to write to.

import assert from "node:assert/strict";
import crypto from "node:crypto";
import fs from "node:fs";
import path from "node:path";
import { test } from "node:test";
import { pathToFileURL } from "node:url";

const load = (name) => import(pathToFileURL(path.join(process.env.M2L_STATIC, name)).href);
const golden = JSON.parse(fs.readFileSync(process.env.M2L_GOLDEN, "utf8"));

const { blake2b } = await load("blake2b.js");
const { itemSeed, randomBytes } = await load("philox.js");
const { AppearanceSampler, drawOrientation, extraInputs, orient, orientBack, turnTo } = await load("inputs.js");
const { resize } = await load("resample.js");
const { Mask } = await load("mask.js");
const { History } = await load("history.js");
const { Latest } = await load("latest.js");
const { checkHeader, maskLevels, pictureSize } = await load("picture.js");
const { crc32 } = await load("zip.js");
const { encodePng, pngText } = await load("png.js");
const { command, packPair, stem } = await load("record.js");

test("blake2b: hashes as Python does, at and around the edges of blocks", () => {
  for (const [message, digest] of golden.blake2b) {
    assert.equal(Buffer.from(blake2b(Uint8Array.from(message), 16)).toString("hex"), digest);
  }
});

test("itemSeed: follows from seed, name and sample", () => {
  for (const [seed, name, sample, expected] of golden.seeds) {
    assert.equal(String(itemSeed(BigInt(seed), name, sample)), expected);
  }
});

test("randomBytes: gives the runtime's noise and dropout bits", () => {
  for (const [seed, size, role, sha256] of golden.bytes) {
    const bytes = randomBytes(BigInt(seed), size, role);
    assert.equal(crypto.createHash("sha256").update(bytes).digest("hex"), sha256);
  }
});

test("AppearanceSampler: samples the runtime's rows, for any choice", () => {
  const content = Uint8Array.from(Buffer.from(golden.table.content, "base64")).buffer;
  const sampler = new AppearanceSampler(golden.appearance, golden.table.about, content);
  for (const [seed, choice, expected] of golden.rows) {
    assert.deepEqual(Array.from(sampler.sample(BigInt(seed), choice)), expected, JSON.stringify(choice));
  }
});

test("orient: draws and turns as the runtime does, and back", () => {
  const drawn = new Set();
  for (const [seed, size, number, mask, turned, image, back] of golden.orientations) {
    assert.equal(drawOrientation(BigInt(seed), size), number);
    assert.deepEqual(Array.from(orient(Uint8Array.from(mask), size, number)), turned);
    assert.deepEqual(Array.from(orientBack(Uint8Array.from(image), size, number)), back);
    drawn.add(number);
  }
  assert.equal(drawn.size, 8);
});

test("extraInputs: makes an array for each input but the mask", () => {
  const specs = [
    { name: "m", role: "mask", shape: ["batch", 4, 4] },
    { name: "bits", role: "dropout_bits", shape: ["batch", 40] },
    { name: "n", role: "noise", shape: ["batch", 5] },
  ];
  const { seed, appearance, arrays } = extraInputs(specs, { seed: 3n, name: "a", sample: 2, choice: {} }, null);
  assert.equal(appearance, null);
  assert.deepEqual(Object.keys(arrays), ["bits", "n"]);
  assert.deepEqual(arrays.bits, randomBytes(seed, 40, "dropout_bits"));
  assert.deepEqual(arrays.n, randomBytes(itemSeed(3n, "a", 2), 5, "noise"));
});

test("turnTo: keeps the distance from the middle, and stays within L* 0 to 100", () => {
  const [lightness, yellow] = turnTo(45, 70, 0);
  assert.ok(Math.abs(lightness - 50 - 20 * Math.SQRT1_2) < 1e-12 && Math.abs(yellow - 20 * Math.SQRT1_2) < 1e-12);
  assert.equal(turnTo(90, 50, 200)[0], 100);
});

test("resize: gives Pillow's levels", () => {
  for (const { from, to, levels, expected } of golden.resize) {
    const resized = resize(Uint8Array.from(Buffer.from(levels, "base64")), ...from, ...to);
    assert.ok(Buffer.from(resized).equals(Buffer.from(expected, "base64")), `${from} to ${to}`);
  }
});

test("Mask: shapes cover what geometry says", () => {
  const mask = new Mask(200, 200);
  mask.ellipse({ x: 40, y: 50 }, { x: 160, y: 130 }, 255);
  assert.ok(Math.abs(mask.area * 40000 - Math.PI * 60 * 40) < 120);
  mask.clear();
  mask.rectangle({ x: 150, y: 20 }, { x: 101, y: 10 }, 255);
  assert.equal(mask.area * 40000, 50 * 11);
  mask.clear();
  mask.stroke({ x: 50, y: 100 }, { x: 150, y: 100 }, 10, 255);
  assert.ok(Math.abs(mask.area * 40000 - (100 * 20 + Math.PI * 100)) < 130);
  mask.stroke({ x: 0, y: 100 }, { x: 199, y: 100 }, 10, 0);
  assert.equal(mask.area, 0);
  mask.outline([{ x: 20.5, y: 20.5 }, { x: 120.5, y: 20.5 }, { x: 20.5, y: 120.5 }], 255);
  assert.ok(Math.abs(mask.area * 40000 - 5000) < 60);
});

test("Mask: what lies outside the frame is left out", () => {
  const mask = new Mask(20, 10);
  mask.stroke({ x: -50, y: -50 }, { x: 100, y: 100 }, 5, 255);
  mask.ellipse({ x: -9, y: -9 }, { x: 40, y: 40 }, 255);
  assert.equal(mask.levels.length, 200);
  assert.deepEqual([...new Set(mask.levels)].filter((level) => level !== 0 && level !== 255), []);
});

test("Mask: fill turns an area up to its border", () => {
  const mask = new Mask(30, 30);
  mask.rectangle({ x: 5, y: 5 }, { x: 24, y: 24 }, 255);
  mask.rectangle({ x: 10, y: 10 }, { x: 19, y: 19 }, 0);
  mask.fill({ x: 15, y: 15 }, 255);
  assert.equal(mask.area * 900, 400);
  mask.fill({ x: 0, y: 0 }, 255);
  assert.equal(mask.area, 1);
  mask.fill({ x: 0, y: 0 }, 255); // already
  assert.equal(mask.area, 1);
});

test("Mask: a new shape is clear of the frame and has no holes", () => {
  let state = 1;
  const random = () => (state = (state * 16807) % 2147483647) / 2147483647;
  for (let count = 0; count < 40; count++) {
    const mask = new Mask(64, 48);
    mask.lesion(random);
    assert.ok(mask.area > 0.02 && mask.area < 0.5);
    assert.equal(Math.max(...mask.levels.subarray(0, 64), ...mask.levels.subarray(64 * 47)), 0);
    mask.fill({ x: 0, y: 0 }, 255); // all around it: nothing is left where it has no holes
    assert.equal(mask.area, 1);
  }
});

test("History: goes back and forth, also over greys", () => {
  const mask = new Mask(16, 16);
  const history = new History();
  const states = [];
  for (const change of [() => mask.clear(255), () => (mask.levels[3] = 77), () => mask.clear(0)]) {
    states.push(mask.levels.slice());
    history.keep(mask);
    change();
  }
  const last = mask.levels.slice();
  for (const state of states.slice().reverse()) {
    assert.ok(history.undo(mask));
    assert.deepEqual(mask.levels, state);
  }
  assert.equal(history.undo(mask), false);
  for (const state of [...states.slice(1), last]) {
    assert.ok(history.redo(mask));
    assert.deepEqual(mask.levels, state);
  }
  assert.equal(history.canRedo, false);
  history.undo(mask);
  history.keep(mask);
  assert.equal(history.canRedo, false);
});

test("Latest: a job without a pause begins at once, in place of one that pauses", async () => {
  const begun = [];
  await new Promise((resolve) => {
    const latest = new Latest({ work: (job) => begun.push(job), show: resolve, fail: assert.fail, delayMs: 60_000 });
    latest.ask(1);
    latest.ask(2);
    latest.ask(3, 0);
  });
  assert.deepEqual(begun, [3]);
});

test("Latest: runs one job at a time, passes over what came between, never shows an older one", async () => {
  const begun = [];
  const shown = [];
  let end = null;
  let running = 0;
  const finished = new Promise((resolve) => {
    const latest = new Latest({
      work: async (job) => {
        begun.push(job);
        assert.equal(++running, 1);
        await new Promise((done) => (end = done));
        running--;
        return job;
      },
      show: (result) => {
        shown.push(result);
        if (result === 9) resolve();
      },
      fail: assert.fail,
    });
    latest.ask(1);
    setTimeout(() => {
      for (let job = 2; job <= 9; job++) latest.ask(job);
      assert.ok(latest.isBusy);
      setTimeout(() => end(), 20);
      setTimeout(() => end(), 60);
    }, 20);
  });
  await finished;
  assert.deepEqual([begun, shown], [[1, 9], [1, 9]]);
});

test("Latest: goes on after a failure", async () => {
  const failed = [];
  await new Promise((resolve) => {
    const latest = new Latest({
      work: async (job) => {
        if (job === 1) throw new Error("one");
        return job;
      },
      show: resolve,
      fail: (error) => {
        failed.push(error.message);
        setTimeout(() => latest.ask(2), 0);
      },
    });
    latest.ask(1);
  });
  assert.deepEqual(failed, ["one"]);
});

test("pictureSize: reads the header of each format", () => {
  for (const [name, content, size] of golden.pictures) {
    assert.deepEqual(pictureSize(Uint8Array.from(Buffer.from(content, "base64"))), size, name);
  }
  assert.equal(pictureSize(new Uint8Array(3)), null);
  assert.equal(pictureSize(new TextEncoder().encode("this is text, and no picture")), null);
});

test("pictureSize: a BMP of OS/2 has sides of 16 bits", () => {
  const header = Uint8Array.of(66, 77, 0, 0, 0, 0, 0, 0, 0, 0, 26, 0, 0, 0, 12, 0, 0, 0, 0, 1, 200, 0, 1, 0, 8, 0);
  assert.deepEqual(pictureSize(header), [256, 200]);
});

test("pictureSize: a WebP that begins with another chunk than a picture's has no size", () => {
  const chunk = new TextEncoder().encode("RIFF\x32\0\0\0WEBPICCP\x03\0\0\0abc\0VP8X\x0a\0\0\0\0\0\0\0");
  assert.equal(pictureSize(chunk), null);
});

test("checkHeader: refuses a picture of 60,000 pixels a side by its header alone", () => {
  const bomb = Uint8Array.from(Buffer.from(golden.bomb, "base64"));
  assert.throws(() => checkHeader(bomb, bomb.length), /60,000 × 60,000 pixels; at most 16,384 a side/);
  assert.throws(() => checkHeader(new Uint8Array(100), 2e9), /2000 MB; at most 64/);
  assert.throws(() => checkHeader(new Uint8Array(100), 100), /no PNG, JPEG, WebP, GIF or BMP/);
  checkHeader(Uint8Array.from(Buffer.from(golden.pictures[0][1], "base64")), 100);
});

test("checkHeader: bears any bytes", () => {
  for (const [, content] of golden.pictures) {
    const whole = Uint8Array.from(Buffer.from(content, "base64"));
    for (let size = 0; size < Math.min(whole.length, 64); size++) {
      try {
        checkHeader(whole.slice(0, size), size);
      } catch (error) {
        assert.match(error.message, /PNG|pixels/, `${size} bytes`);
      }
    }
  }
});

test("maskLevels: reads masks as the runtime does", () => {
  for (const { name, rgba, expected } of golden.masks) {
    const pixels = Uint8Array.from(Buffer.from(rgba, "base64"));
    if (expected === null) assert.throws(() => maskLevels(pixels), /Expected a mask/, name);
    else assert.ok(Buffer.from(maskLevels(pixels).levels).equals(Buffer.from(expected, "base64")), name);
  }
});

test("crc32: gives the check value of the standard", () => {
  assert.equal(crc32(new TextEncoder().encode("123456789")), 0xcbf43926);
});

test("encodePng: its text is read back", async () => {
  const png = await encodePng(new Uint8Array(12), 2, 2, { Description: "of \u00e4", "m2l-seed": "5" });
  assert.deepEqual(pngText(png), { Description: "of \u00e4", "m2l-seed": "5" });
  assert.deepEqual(pngText(png.slice(0, 60)), {});
  assert.deepEqual(pngText(new Uint8Array(5)), {});
});

test("packPair: writes what Python reads", async () => {
  const [height, width] = golden.pair.size;
  const config = {
    ...golden.pair.config,
    image_size: [height, width],
    appearance: { names: ["lesion_L", "hair"] },
  };
  const wanted = { seed: (1n << 64n) - 1n, name: "l\u00e4sion", sample: 2, choice: { hair: 0 } };
  const made = {
    wanted,
    mask: Uint8Array.from({ length: width * height }, (_, at) => (at % 3 ? 0 : 255)),
    pixels: Uint8Array.from({ length: width * height * 3 }, (_, at) => at % 251),
    seed: "77",
    appearance: Float32Array.from([35.12345, 0]),
  };
  const { name, content } = await packPair(config, made, "in a test");
  assert.equal(stem(wanted), "l\u00e4sion_sample2");
  const plain = { seed: 5n, name: "a", sample: 1, choice: {} };
  assert.equal(command(plain), "m2l synth masks/a.png lesions --seed 5");
  assert.equal(command({ ...plain, name: "it's; b" }), "m2l synth 'masks/it'\\''s; b.png' lesions --seed 5");
  assert.equal(name, "l\u00e4sion_sample2-seed18446744073709551615.zip");
  fs.writeFileSync(path.join(process.env.M2L_OUT, "pair.zip"), content);
  assert.deepEqual((await packPair(config, made, "in a test")).content, content);
});
