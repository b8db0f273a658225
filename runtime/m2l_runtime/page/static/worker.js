// Run the bundle's model with onnxruntime-web, off the page's own thread, so that drawing stays smooth.
//
// Messages in: {kind: "open", config, base, provider}, then {kind: "synthesize", id, mask, wanted} and
// {kind: "check", id}. Messages out: {kind: "ready", ...} or {kind: "failed", message}, then {id, ...} or {id, error}.

import { AppearanceSampler, drawOrientation, extraInputs, orient, orientBack } from "./inputs.js";

const TYPES = { uint8: Uint8Array, float32: Float32Array };
const MAX_THREADS = 4;
const ROUNDS = 3;
const MAX_CHECK_MS = 15_000; // no round begins after that

let engine = null;
let last = Promise.resolve(); // one thing at a time: a session runs one call

async function bytesOf(url) {
  const found = await fetch(url);
  if (!found.ok) throw new Error(`${url.split("/").pop()} is missing from this site (status ${found.status})`);
  return found.arrayBuffer();
}

async function open({ config, base, provider }) {
  const { browser, inputs } = config;
  const at = (path) => new URL(path, base).href;
  const loading = Promise.all([
    bytesOf(at(browser.model.path)),
    browser.appearances ? bytesOf(at(browser.appearances.path)) : null,
  ]);
  loading.catch(() => {}); // awaited below; if the module fails first, nothing else is to be said
  const ort = await import(at(browser.engine[provider]));
  ort.env.wasm.numThreads = self.crossOriginIsolated ? Math.min(MAX_THREADS, navigator.hardwareConcurrency || 1) : 1;
  ort.env.logLevel = "error";
  const [model, table] = await loading;
  const session = await ort.InferenceSession.create(new Uint8Array(model), {
    executionProviders: [
      provider === "webgpu" ? { name: provider, forceCpuNodeNames: browser.engine.cpu_nodes } : provider,
    ],
    graphOptimizationLevel: "basic",
  });
  const sampler = browser.appearances ? new AppearanceSampler(config.appearance, browser.appearances, table) : null;
  engine = { ort, session, sampler, config, specs: inputs, at, noise: null };
  return { threads: ort.env.wasm.numThreads };
}

async function runModel(arrays) {
  const { ort, session, specs, config } = engine;
  const feeds = {};
  for (const { name, dtype, shape } of specs) {
    feeds[name] = new ort.Tensor(dtype, arrays[name], [1, ...shape.slice(1)]);
  }
  const found = await session.run(feeds);
  const image = found[config.output];
  const pixels = image.data.slice();
  for (const tensor of Object.values(found)) tensor.dispose();
  return pixels;
}

async function synthesize({ mask, wanted }) {
  const began = performance.now();
  const { seed, appearance, arrays } = extraInputs(
    engine.specs,
    { ...wanted, seed: BigInt(wanted.seed) },
    engine.sampler,
  );
  const name = engine.specs.find((spec) => spec.role === "mask").name;
  const size = engine.config.image_size;
  const orientation = engine.config.random_orientation ? drawOrientation(seed, size) : 0;
  const drawn = await runModel({ ...arrays, [name]: orient(mask, size, orientation) });
  const pixels = orientBack(drawn, size, orientation);
  return { pixels, seed: String(seed), appearance, ms: performance.now() - began };
}

/** Replay the bundle's golden pair: the largest difference in levels, and the least time of some runs. */
async function check() {
  const { browser, output } = engine.config;
  const content = await bytesOf(engine.at(browser.golden.path));
  const arrays = {};
  let from = 0;
  for (const { name, dtype, bytes } of browser.golden.arrays) {
    arrays[name] = new TYPES[dtype](content.slice(from, from + bytes));
    from += bytes;
  }
  let [difference, ms] = [0, Infinity];
  const start = performance.now();
  for (let round = 0; round < ROUNDS && (round === 0 || performance.now() - start < MAX_CHECK_MS); round++) {
    const began = performance.now();
    const pixels = await runModel(arrays);
    ms = Math.min(ms, performance.now() - began);
    pixels.forEach((level, place) => (difference = Math.max(difference, Math.abs(level - arrays[output][place]))));
  }
  return { difference, ms };
}

const ANSWERS = { synthesize, check };

self.addEventListener("message", ({ data }) => {
  last = last.then(() => answer(data));
});

async function answer(data) {
  if (data.kind === "open") {
    try {
      self.postMessage({ kind: "ready", ...(await open(data)) });
    } catch (error) {
      self.postMessage({ kind: "failed", message: String(error?.message ?? error).slice(0, 400) });
    }
    return;
  }
  try {
    self.postMessage({ id: data.id, ...(await ANSWERS[data.kind](data)) });
  } catch (error) {
    self.postMessage({ id: data.id, error: String(error?.message ?? error).slice(0, 400) });
  }
}
