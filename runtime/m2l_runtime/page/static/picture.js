// Read a mask from a picture file, by the rule of m2l_runtime.masks for files of 8 bits; what is not a mask gets words.

import { resize } from "./resample.js";

const MAX_SIDE = 16_384;
const MAX_PIXELS = 64_000_000;
const MAX_BYTES = 64_000_000;
const HEAD_BYTES = 1 << 18;
const [BLACK_BELOW, WHITE_FROM] = [16, 240];
const MAX_CHANNEL_DIFFERENCE = 8;
const MAX_GRAY_FRACTION = 0.2;

/** Read width and height in a file's header, before anything is decoded; null: none of the formats known here. */
export function pictureSize(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const starts = (...wanted) => wanted.every((byte, at) => bytes[at] === byte);
  const word = (at) => String.fromCharCode(...bytes.subarray(at, at + 4));
  if (starts(137, 80, 78, 71) && bytes.length >= 24) return [view.getUint32(16), view.getUint32(20)];
  if (starts(71, 73, 70, 56) && bytes.length >= 10) return [view.getUint16(6, true), view.getUint16(8, true)];
  if (starts(66, 77) && bytes.length >= 26) return bmpSize(view);
  if (starts(255, 216)) return jpegSize(view);
  if (word(0) === "RIFF" && word(8) === "WEBP" && bytes.length >= 30) return webpSize(view, word(12));
  return null;
}

function bmpSize(view) {
  const isOfOs2 = view.getUint32(14, true) === 12; // the oldest header, with sides of 16 bits
  if (isOfOs2) return [view.getUint16(18, true), view.getUint16(20, true)];
  return [view.getInt32(18, true), Math.abs(view.getInt32(22, true))];
}

function jpegSize(view) {
  for (let at = 2; at + 9 <= view.byteLength && view.getUint8(at) === 0xff;) {
    const marker = view.getUint8(at + 1);
    const isFrame = marker >= 0xc0 && marker <= 0xcf && ![0xc4, 0xc8, 0xcc].includes(marker);
    if (isFrame) return [view.getUint16(at + 7), view.getUint16(at + 5)];
    at += marker === 0xff ? 1 : 2 + view.getUint16(at + 2);
  }
  return null;
}

function webpSize(view, kind) {
  const u24 = (at) => view.getUint16(at, true) + (view.getUint8(at + 2) << 16);
  if (kind === "VP8X") return [u24(24) + 1, u24(27) + 1];
  if (kind === "VP8 ") return [view.getUint16(26, true) & 0x3fff, view.getUint16(28, true) & 0x3fff];
  if (kind !== "VP8L") return null;
  const bits = view.getUint32(21, true);
  return [(bits & 0x3fff) + 1, ((bits >> 14) & 0x3fff) + 1];
}

/** Refuse a file by its size and header alone; the message is for a person. */
export function checkHeader(bytes, sizeBytes) {
  if (sizeBytes > MAX_BYTES) {
    throw new Error(
      `The file has ${(sizeBytes / 1e6).toFixed(0)} MB; at most ${MAX_BYTES / 1e6} are read. Save the mask as PNG.`,
    );
  }
  const size = pictureSize(bytes);
  if (size === null) {
    throw new Error("This is no PNG, JPEG, WebP, GIF or BMP, or its header is damaged. Save the mask as PNG.");
  }
  const [width, height] = size;
  if (width < 1 || height < 1)
    throw new Error(`The picture's header says ${width} × ${height} pixels, so it is damaged.`);
  if (width > MAX_SIDE || height > MAX_SIDE || width * height > MAX_PIXELS) {
    const said = `${width.toLocaleString("en")} × ${height.toLocaleString("en")}`;
    throw new Error(
      `The picture has ${said} pixels; at most ${MAX_SIDE.toLocaleString("en")} a side and ${MAX_PIXELS / 1e6} million in all ` +
        "are read. Make it smaller first; it was not opened.",
    );
  }
}

/**
 * Turn RGBA into the levels of a mask; see the rule at the top of m2l_runtime.masks.mask_file.
 *
 * @returns {{levels: Uint8Array, note: string|null}}
 */
export function maskLevels(rgba) {
  const count = rgba.length / 4;
  const words = new Uint32Array(rgba.buffer, rgba.byteOffset, count);
  const first = words[0];
  const other = words.find((word) => word !== first);
  if (other === undefined) {
    const isFull = Math.max(...rgba.subarray(0, 3)) > 0;
    return {
      levels: new Uint8Array(count).fill(isFull ? 255 : 0),
      note: isFull ? "all of it is lesion" : "it is empty",
    };
  }
  if (words.every((word) => word === first || word === other)) {
    const lesion = luma(rgba, 0) > luma(rgba, words.indexOf(other)) ? first : other;
    return { levels: Uint8Array.from(words, (word) => (word === lesion ? 255 : 0)), note: null };
  }
  return grayLevels(rgba, count);
}

function luma(rgba, place) {
  const [red, green, blue] = rgba.subarray(place * 4, place * 4 + 3);
  return 0.299 * red + 0.587 * green + 0.114 * blue;
}

function grayLevels(rgba, count) {
  const levels = new Uint8Array(count);
  let [difference, middle, highest] = [0, 0, 0];
  for (let place = 0; place < count; place++) {
    const [red, green, blue] = [rgba[place * 4], rgba[place * 4 + 1], rgba[place * 4 + 2]];
    difference = Math.max(difference, Math.max(red, green, blue) - Math.min(red, green, blue));
    const level = Math.round((red + green + blue) / 3);
    levels[place] = level;
    highest = Math.max(highest, level);
    middle += level >= BLACK_BELOW && level < WHITE_FROM;
  }
  const wanted = "Expected a mask: black skin and white lesion.";
  if (difference > MAX_CHANNEL_DIFFERENCE)
    throw new Error(`The picture is colored, its channels differ by up to ${difference} levels. ${wanted}`);
  if (middle > count * MAX_GRAY_FRACTION)
    throw new Error(
      `The picture looks like a photograph: ${Math.round((middle / count) * 100)} % of it is grey. ${wanted}`,
    );
  if (highest < BLACK_BELOW) return { levels: levels.fill(0), note: "it is empty" };
  return { levels, note: null };
}

/**
 * Read a mask file.
 *
 * @param {File} file
 * @returns {Promise<{levels: Uint8Array, note: string|null, size: number[]}>} at the model's size
 */
export async function readMaskFile(file, width, height) {
  checkHeader(new Uint8Array(await file.slice(0, HEAD_BYTES).arrayBuffer()), file.size);
  const options = { colorSpaceConversion: "none", premultiplyAlpha: "premultiply" };
  const picture = await createImageBitmap(file, options).catch(() => {
    throw new Error("The browser cannot decode this picture; it may be damaged or cut off.");
  });
  const canvas = new OffscreenCanvas(picture.width, picture.height);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.fillStyle = "#000";
  context.fillRect(0, 0, picture.width, picture.height); // what is transparent is skin
  context.drawImage(picture, 0, 0);
  const { data } = context.getImageData(0, 0, picture.width, picture.height);
  const size = [picture.width, picture.height];
  picture.close();
  const { levels, note } = maskLevels(data);
  return { levels: resize(levels, ...size, width, height), note, size };
}
