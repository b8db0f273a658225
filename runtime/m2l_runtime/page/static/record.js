// Write a pair of mask and image down: two PNG files, and a JSON record of how the image was made.

import { encodePng } from "./png.js";
import { zip } from "./zip.js";

async function sha256(bytes) {
  if (!globalThis.crypto?.subtle) return null; // a page over plain http, from another machine
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
  return Array.from(digest, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

const rounded = (number) => Number(number.toFixed(3));
const asPython = (number) => (Number.isInteger(number) ? number.toFixed(1) : String(number));

/** Name of the files of an image, as `m2l synth` gives them where a mask has several. */
export function stem({ name, sample }) {
  return sample > 1 ? `${name}_sample${sample}` : name;
}

const quoted = (word) => (/^[\w./=,-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`);

/** The options of `m2l synth` that make the same image of the same mask. */
export function command({ seed, name, sample, choice }) {
  const chosen = Object.entries(choice)
    .map(([key, value]) => `${key}=${value}`)
    .join(",");
  const words = ["m2l synth", quoted(`masks/${name}.png`), "lesions"];
  if (seed !== null) words.push(`--seed ${seed}`);
  if (sample > 1) words.push(`--samples ${sample}`);
  if (chosen) words.push(`--appearance ${chosen}`);
  return words.join(" ");
}

/**
 * Pack a pair.
 *
 * @param {object} config of the page
 * @param {object} made {mask, pixels, png, seed, appearance, wanted}: an image, and what was asked for
 * @param {string} engine in words
 * @returns {Promise<{name: string, content: Uint8Array}>}
 */
export async function packPair(config, made, engine) {
  const [height, width] = config.image_size;
  const { wanted } = made;
  const names = config.appearance?.names ?? [];
  const appearance = made.appearance
    ? Object.fromEntries(names.map((name, at) => [name, rounded(made.appearance[at])]))
    : null;
  const text = {
    Description: config.description,
    Software: `m2l ${config.version}`,
    "m2l-bundle-sha256": config.bundle.sha256,
    "m2l-backend": engine,
  };
  if (made.seed !== null) text["m2l-seed"] = made.seed;
  if (appearance)
    text["m2l-appearance"] = Object.entries(appearance)
      .map(([name, value]) => `${name}=${asPython(value)}`)
      .join(",");
  const image = made.png ?? (await encodePng(made.pixels, width, height, text));
  const mask = await encodePng(made.mask, width, height, { Software: `m2l ${config.version}` });
  const file = stem(wanted);
  const record = {
    notice: config.description,
    name: wanted.name,
    seed: config.is_random ? String(wanted.seed) : null,
    sample: wanted.sample,
    image_seed: made.seed,
    appearance_choice: Object.keys(wanted.choice).length ? wanted.choice : null,
    appearance,
    output: `images/${file}.png`,
    output_sha256: await sha256(image),
    mask_output: `masks/${wanted.name}.png`,
    mask_output_sha256: await sha256(mask),
    bundle: config.bundle.name,
    bundle_sha256: config.bundle.sha256,
    engine,
    version: config.version,
    command: command({ ...wanted, seed: config.is_random ? wanted.seed : null }),
  };
  const json = new TextEncoder().encode(`${JSON.stringify(record, null, 2)}\n`);
  const content = zip([
    [record.output, image],
    [record.mask_output, mask],
    [`${file}.json`, json],
  ]);
  return { name: `${file}-seed${wanted.seed}.zip`, content };
}
