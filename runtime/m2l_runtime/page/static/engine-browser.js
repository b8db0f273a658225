// Make images in the browser, with onnxruntime-web in a worker. Nothing that is drawn leaves the machine.

// A module of one function that adds vectors (v128): a browser that validates it has WebAssembly SIMD.
const SIMD = [
  0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 0, 1, 123, 3, 2, 1, 0, 10, 10, 1, 8, 0, 65, 0, 253, 15, 253, 98, 11,
];

/** What the browser lacks to run the model, in words; null: nothing. */
export function missing() {
  if (typeof WebAssembly !== "object") return "WebAssembly, which is switched off or not there";
  if (!WebAssembly.validate(Uint8Array.from(SIMD))) return "WebAssembly SIMD";
  if (typeof Worker !== "function") return "workers";
  return null;
}

class Client {
  constructor(config, base, provider) {
    this.worker = new Worker(new URL("worker.js", base), { type: "module" });
    this.waiting = new Map();
    this.count = 0;
    this.isEnding = false;
    this.ready = new Promise((resolve, reject) => {
      this.worker.addEventListener("message", ({ data }) => {
        if (data.kind === "ready") resolve(data);
        else if (data.kind === "failed") reject(new Error(data.message));
        else this.#answer(data);
      });
      this.worker.addEventListener("error", (event) => {
        event.preventDefault();
        const error = new Error(event.message || "the worker did not start");
        reject(error);
        for (const [, [, refuse]] of this.waiting) refuse(error);
        this.waiting.clear();
      });
    });
    this.worker.postMessage({ kind: "open", config, base, provider });
  }

  #answer({ id, error, ...found }) {
    const [resolve, reject] = this.waiting.get(id) ?? [() => {}, () => {}];
    this.waiting.delete(id);
    if (this.isEnding) this.end();
    if (error === undefined) resolve(found);
    else reject(new Error(error));
  }

  /** Ask for something; what is asked before the engine is open waits for it. */
  ask(message) {
    const id = ++this.count;
    return new Promise((resolve, reject) => {
      this.waiting.set(id, [resolve, reject]);
      this.worker.postMessage({ ...message, id });
    });
  }

  /** End the worker, after what it is asked for is answered. */
  end() {
    this.isEnding = true;
    if (this.waiting.size === 0) this.worker.terminate();
  }
}

/** The engine of the page in a browser alone. */
export class BrowserEngine {
  constructor(config, base) {
    this.config = config;
    this.base = base;
    this.provider = "wasm";
    this.notes = [];
    this.isLocal = true;
  }

  async open() {
    const lack = missing();
    if (lack !== null) {
      throw new Error(
        `This browser lacks ${lack}, so the model cannot run in it. Any current Firefox, Chrome, Edge or Safari has it; ` +
          "or run m2l serve on a computer and open its page.",
      );
    }
    this.client = new Client(this.config, this.base, "wasm");
    ({ threads: this.threads } = await this.client.ready);
  }

  get label() {
    const where =
      this.provider === "webgpu" ? "WebGPU" : `WebAssembly, ${this.threads} thread${this.threads > 1 ? "s" : ""}`;
    return `in this browser (onnxruntime-web ${this.config.browser.engine.version}, ${where})`;
  }

  /** Synthesize an image: {pixels, seed, appearance, ms}. */
  async synthesize(mask, wanted) {
    const sent = { ...wanted, seed: String(wanted.seed) };
    return this.client.ask({ kind: "synthesize", mask, wanted: sent });
  }

  /** Replay the golden pair; returns words for the page. Then see whether WebGPU is there, right and faster. */
  async check() {
    const limit = this.config.browser.max_level_difference;
    const { difference, ms } = await this.client.ask({ kind: "check" });
    if (difference > limit) {
      return `this engine's image of the bundle's golden pair differs by ${difference} levels; at most ${limit} are expected`;
    }
    await this.#tryWebGpu(ms, limit);
    return difference === 0
      ? "the bundle's golden image comes out the same"
      : `the bundle's golden image comes out within ${difference} level${difference === 1 ? "" : "s"}`;
  }

  async #tryWebGpu(wasmMs, limit) {
    if (!this.config.browser.engine.webgpu || !navigator.gpu) return;
    const adapter = await navigator.gpu.requestAdapter().catch(() => null);
    if (!adapter) return;
    const client = new Client(this.config, this.base, "webgpu");
    try {
      await client.ready;
      const { difference, ms } = await client.ask({ kind: "check" });
      if (difference > limit || ms >= wasmMs) {
        this.notes.push(
          difference > limit
            ? "WebGPU gives other images here, so WebAssembly is used"
            : "WebAssembly is faster here than WebGPU",
        );
        client.end();
        return;
      }
      this.client.end();
      this.client = client; // what the other was asked for is still answered by it
      this.provider = "webgpu";
    } catch (error) {
      this.notes.push(`WebGPU does not run the model here, so WebAssembly is used (${error.message})`);
      client.end();
    }
  }
}
