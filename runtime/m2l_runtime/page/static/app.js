// Wire the page: what is drawn and set goes to an engine, the latest image comes back.

import { Drawing } from "./canvas.js";
import { AppearanceControls } from "./controls.js";
import { BrowserEngine } from "./engine-browser.js";
import { ServerEngine, ServerGone } from "./engine-server.js";
import { History } from "./history.js";
import { Latest } from "./latest.js";
import { Mask } from "./mask.js";
import { readMaskFile } from "./picture.js";
import { packPair } from "./record.js";
import { ResultView } from "./result.js";
import { saveMask, savedMask } from "./saved.js";
import { watchTabs } from "./tabs.js";
import { watchTheme } from "./theme.js";
import { Variations } from "./variations.js";

const DRAWING_MS = 60;
const SETTING_MS = 120;
const RETRY_S = [2, 5, 10, 20, 30];
const MAX_SEED = (1n << 64n) - 1n;
const FIRST_SHAPE = 11;
const BAD_NAME = /[/\\:*?"<>|\p{Cc}]|^\.|^\s*$/u;

const $ = (id) => document.getElementById(id);

/** A small generator of random numbers, for shapes alone (mulberry32). */
function randomFrom(seed) {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let word = Math.imul(state ^ (state >>> 15), 1 | state);
    word = (word + Math.imul(word ^ (word >>> 7), 61 | word)) ^ word;
    return ((word ^ (word >>> 14)) >>> 0) / 4294967296;
  };
}

class Page {
  constructor(config) {
    this.config = config;
    const [height, width] = config.image_size;
    this.mask = savedMask(width, height) ?? new Mask(width, height);
    if (this.mask.area === 0) this.mask.lesion(randomFrom(FIRST_SHAPE));
    this.history = new History();
    this.sample = 1;
    this.isDone = true;
    this.made = null;
    this.retries = 0;
    const Engine = config.mode === "browser" ? BrowserEngine : ServerEngine;
    this.engine = new Engine(config, document.baseURI);
    this.view = new ResultView(
      { canvas: $("result"), over: $("over"), wipe: $("wipe"), wipeLabel: $("wipe-label"), compare: $("compare") },
      width,
      height,
    );
    this.latest = new Latest({
      work: ({ mask, wanted }) => this.engine.synthesize(mask, wanted),
      show: (made, job) => this.show(made, job),
      fail: (error, job) => this.fail(error, job),
      delayMs: DRAWING_MS,
    });
    this.drawing = new Drawing($("drawing"), this.mask, this.history, {
      change: (isDone) => this.changed(isDone),
      tool: (name) => this.chooseTool(name),
      radius: (pixels) => this.setRadius(pixels),
      say,
      undo: () => this.undo(),
      redo: () => this.redo(),
    });
    this.variations = new Variations($("variations"), config.variations, config.image_size, {
      synthesize: (mask, wanted) => this.engine.synthesize(mask, wanted),
      isBusy: () => this.latest.isBusy,
      choose: (made, job) => this.choose(made, job),
      fail: (error) => this.fail(error, null),
      done: () => say(`${config.variations} variations are there.`),
    });
    this.controls = config.appearance
      ? new AppearanceControls($("appearance"), config.appearance, (isDone) => this.settingChanged(isDone))
      : null;
    this.describe();
    this.listen();
    this.facts();
  }

  /** Load the engine and show the first image. */
  async start() {
    try {
      await this.engine.open();
    } catch (error) {
      $("veil").textContent = "The model did not load.";
      $("engine").textContent = "No engine";
      warn(String(error.message));
      return;
    }
    $("veil").textContent = "The first image is on its way …";
    $("engine").textContent = `Images are made ${this.engine.label}.`;
    this.ask(0);
  }

  describe() {
    const { config, engine } = this;
    $("notice").textContent = config.notice;
    $("bundle").textContent = config.bundle.name;
    $("bundle").title = `SHA-256 ${config.bundle.sha256}`;
    $("privacy").textContent = engine.isLocal ? "What you draw never leaves this machine." : "";
    $("name").value = config.name;
    if (!config.is_random) {
      $("seed-field").hidden = $("vary").hidden = true;
      $("name-help").hidden = true;
    }
  }

  // ---- what is asked for

  wanted() {
    return { seed: this.seed ?? 0n, name: this.name, sample: this.sample, choice: this.controls?.choice ?? {} };
  }

  get seed() {
    const text = $("seed").value.trim();
    if (!/^\d{1,20}$/.test(text) || BigInt(text) > MAX_SEED) return null;
    return BigInt(text);
  }

  get name() {
    return $("name").value.trim();
  }

  /** Check the fields; false and words beside them if one is wrong. */
  check() {
    const wrongSeed = this.config.is_random && this.seed === null;
    mark(
      $("seed"),
      $("seed-error"),
      wrongSeed ? "Expected a whole number from 0 to 18446744073709551615 (2^64-1)." : "",
    );
    const wrongName = BAD_NAME.test(this.name);
    mark(
      $("name"),
      $("name-error"),
      wrongName ? 'Expected a file name: none of / \\ : * ? " < > |, no dot at its beginning.' : "",
    );
    return !wrongSeed && !wrongName;
  }

  ask(delayMs) {
    if (!this.check()) return;
    this.variations.hide();
    this.latest.ask({ mask: this.mask.levels.slice(), wanted: this.wanted(), isDone: this.isDone }, delayMs);
    if (this.made === null) return;
    $("state").textContent = "drawing …";
  }

  changed(isDone) {
    this.isDone = isDone;
    this.ask(isDone ? 0 : DRAWING_MS);
    this.facts();
    if (isDone) saveMask(this.mask);
  }

  settingChanged(isDone) {
    this.isDone = isDone;
    this.sample = 1;
    this.ask(SETTING_MS);
  }

  facts() {
    $("undo").disabled = !this.history.canUndo;
    $("redo").disabled = !this.history.canRedo;
    const area = (100 * this.mask.area).toFixed(1);
    $("area").textContent = `${this.mask.width} × ${this.mask.height}, lesion ${area} %`;
    $("drawing").setAttribute("aria-label", `Mask, ${area} % of it lesion`);
  }

  // ---- what comes back

  show(made, job) {
    const isFirst = this.made === null;
    this.retries = 0;
    clearTimeout(this.retryTimer);
    if (this.hasFailed) warn(null);
    this.hasFailed = false;
    this.display(made, job);
    if (job.isDone && !this.latest.waiting) say(`Image ${this.words(made)}.`);
    if (isFirst) this.checkEngine();
  }

  choose(made, job) {
    this.sample = job.wanted.sample;
    this.display(made, job);
    say(`Variation ${this.sample} chosen.`);
  }

  display(made, { mask, wanted }) {
    this.made = { ...made, mask, wanted };
    $("veil").hidden = true;
    $("download").disabled = false;
    this.view.show(made.pixels, mask);
    this.controls?.showDrawn(made.appearance);
    if (this.latest.waiting === null) $("state").textContent = this.words(made);
    $("result").setAttribute("aria-label", `Synthetic image of a skin lesion, ${this.words(made)}`);
    document.dispatchEvent(new CustomEvent("m2l-image", { detail: { ms: made.ms } }));
  }

  words({ ms }) {
    const { seed, sample } = this.wanted();
    const of = this.config.is_random ? `seed ${seed}${sample > 1 ? `, variation ${sample}` : ""}, ` : "";
    return `${of}${Math.round(ms)} ms`;
  }

  async checkEngine() {
    try {
      const words = await this.engine.check();
      const made = `Images are made ${this.engine.label}`;
      $("engine").textContent = `${[made, words, ...this.engine.notes].filter(Boolean).join("; ")}.`;
    } catch (error) {
      warn(`The engine could not be checked: ${error.message}`);
    }
  }

  fail(error, job) {
    $("state").textContent = "no image";
    this.hasFailed = true;
    if (!(error instanceof ServerGone)) {
      warn(String(error.message));
      return;
    }
    const wait = Math.min(60, error.retryAfterS ?? RETRY_S[Math.min(this.retries, RETRY_S.length - 1)]);
    this.retries++;
    warn(`${error.message} Trying again in ${wait} seconds.`, () => this.again(job));
    clearTimeout(this.retryTimer);
    this.retryTimer = setTimeout(() => this.again(job), wait * 1000);
  }

  again(job) {
    clearTimeout(this.retryTimer);
    this.latest.ask(
      job === null
        ? { mask: this.mask.levels.slice(), wanted: this.wanted(), isDone: true }
        : { ...job, mask: this.mask.levels.slice(), wanted: this.wanted() },
      0,
    );
  }

  // ---- what people do

  listen() {
    for (const radio of document.querySelectorAll("input[name=tool]"))
      radio.addEventListener("change", () => this.chooseTool(radio.value));
    $("radius").addEventListener("input", () => this.setRadius(Number($("radius").value)));
    $("undo").addEventListener("click", () => this.undo());
    $("redo").addEventListener("click", () => this.redo());
    $("clear").addEventListener("click", () => this.drawing.apply((mask) => mask.clear()));
    $("shape").addEventListener("click", () => this.newShape());
    $("file").addEventListener("change", () => this.load($("file").files[0]));
    $("seed").addEventListener("input", () => this.settingChanged(true));
    $("name").addEventListener("input", () => this.settingChanged(true));
    $("dice").addEventListener("click", () => this.otherSeed());
    $("keep").addEventListener("click", () => this.keep());
    $("vary").addEventListener(
      "click",
      () => this.check() && this.variations.make(this.mask.levels.slice(), this.wanted()),
    );
    $("download").addEventListener("click", () => this.download());
    $("alert-close").addEventListener("click", () => warn(null));
    addEventListener("keydown", (event) => this.#shortcut(event));
    addEventListener("dragover", (event) => event.preventDefault());
    addEventListener("drop", (event) => {
      event.preventDefault();
      this.load(event.dataTransfer?.files[0]);
    });
    watchTabs((others) => this.tabs(others));
  }

  #shortcut(event) {
    const isText = event.target instanceof HTMLInputElement && event.target.type === "text";
    if (isText || event.defaultPrevented || !(event.ctrlKey || event.metaKey) || event.key.toLowerCase() !== "z")
      return;
    event.preventDefault();
    if (event.shiftKey) this.redo();
    else this.undo();
  }

  chooseTool(name) {
    this.drawing.setTool(name);
    const radio = document.querySelector(`input[name=tool][value=${name}]`);
    if (!radio.checked) say(`Tool: ${name}.`);
    radio.checked = true;
  }

  setRadius(pixels) {
    this.drawing.setRadius(pixels);
    $("radius").value = this.drawing.radius;
    $("radius-value").textContent = `${2 * this.drawing.radius} px`;
  }

  undo() {
    this.#step(this.history.undo(this.mask), "Undone.", "There is nothing to undo.");
  }

  redo() {
    this.#step(this.history.redo(this.mask), "Done again.", "There is nothing to do again.");
  }

  #step(isMoved, words, otherwise) {
    say(isMoved ? words : otherwise);
    if (!isMoved) return;
    this.drawing.paint();
    this.changed(true);
  }

  newShape() {
    this.drawing.apply((mask) => {
      mask.clear();
      mask.lesion();
    });
  }

  async load(file) {
    if (!file) return;
    $("file").value = "";
    try {
      const { levels, note, size } = await readMaskFile(file, this.mask.width, this.mask.height);
      this.drawing.apply((mask) => mask.levels.set(levels));
      const name = file.name.replace(/\.[^.]*$/, "").slice(0, 80);
      if (!BAD_NAME.test(name)) $("name").value = name;
      this.settingChanged(true);
      const resized =
        size[0] === this.mask.width && size[1] === this.mask.height ? "" : `, resized from ${size[0]} × ${size[1]}`;
      say(`Mask loaded${resized}.`);
      warn(note === null ? null : `The mask was loaded; ${note}.`);
    } catch (error) {
      warn(String(error.message));
    }
  }

  otherSeed() {
    const words = crypto.getRandomValues(new Uint32Array(1));
    $("seed").value = String(words[0] % 1_000_000);
    this.settingChanged(true);
  }

  keep() {
    if (this.made === null) return;
    this.view.keep();
    say("Image kept. Compare moves between it and the next ones.");
  }

  async download() {
    const { name, content } = await packPair(this.config, this.made, this.engine.label);
    const link = Object.assign(document.createElement("a"), {
      href: URL.createObjectURL(new Blob([content], { type: "application/zip" })),
      download: name,
    });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
    say(`Saved as ${name}.`);
  }

  tabs(others) {
    const words =
      "This page is open in another tab, too. Each keeps its own drawing; images take longer, as both share this machine.";
    if (others > 0 && this.engine.isLocal) warn(words);
    else if ($("alert-text").textContent === words) warn(null);
  }
}

function mark(input, place, words) {
  if (words) input.setAttribute("aria-invalid", "true");
  else input.removeAttribute("aria-invalid");
  if (place.textContent !== words) place.textContent = words;
}

/** Say something to screen readers. */
function say(words) {
  $("live").textContent = words;
}

/** Show a warning; null takes it away. */
function warn(words, retry) {
  $("alert").hidden = words === null;
  $("alert-text").textContent = words ?? "";
  $("alert-retry").hidden = !retry;
  $("alert-retry").onclick = retry ?? null;
}

async function main() {
  watchTheme($("theme"));
  $("veil").textContent = "Loading the model …";
  let config;
  try {
    const answer = await fetch("config.json");
    if (!answer.ok) throw new Error(`status ${answer.status}`);
    config = await answer.json();
  } catch (error) {
    $("veil").textContent = "The page did not load.";
    warn(`config.json did not load: ${error.message}. Reload the page when its server answers again.`);
    return;
  }
  const page = new Page(config);
  await page.start();
}

main();
