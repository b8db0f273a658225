// Draw on a mask with mouse, finger, pen or keys. What is seen is a canvas; what is drawn is a Mask.

import { LESION, SKIN } from "./mask.js";

const KEY_STEP = 8;
const MIN_OUTLINE = 3;
const [MIN_RADIUS, MAX_RADIUS] = [1, 60];
const MOVES = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

/** The tools: their key, and whether they need a second point (a box) or a path. */
export const TOOLS = {
  brush: { key: "b", kind: "path", name: "Brush" },
  eraser: { key: "e", kind: "path", name: "Eraser" },
  outline: { key: "o", kind: "outline", name: "Outline" },
  ellipse: { key: "l", kind: "box", name: "Ellipse" },
  rectangle: { key: "r", kind: "box", name: "Rectangle" },
  fill: { key: "f", kind: "point", name: "Fill" },
};

/** The drawing area. `on` has change(isDone), tool(name), radius(pixels), say(words), undo() and redo(). */
export class Drawing {
  constructor(canvas, mask, history, on) {
    Object.assign(this, { canvas, mask, history, on });
    [canvas.width, canvas.height] = [mask.width, mask.height];
    this.context = canvas.getContext("2d");
    this.picture = this.context.createImageData(mask.width, mask.height);
    this.frame = null;
    this.tool = "brush";
    this.radius = 10;
    this.isErasing = false;
    this.step = null; // what is drawn just now
    this.cursor = { x: Math.round(mask.width / 2), y: Math.round(mask.height / 2) };
    this.pointer = null;
    this.hasKeys = false;
    this.#listen();
    this.paint();
  }

  /** Change the mask by `change(mask)`, as one step that can be undone. */
  apply(change) {
    const before = this.mask.copy();
    change(this.mask);
    if (this.mask.equals(before)) return;
    this.history.keep(before);
    this.paint();
    this.on.change(true);
  }

  setTool(name) {
    this.cancel();
    this.tool = name;
    this.paint();
  }

  setRadius(pixels) {
    this.radius = Math.min(MAX_RADIUS, Math.max(MIN_RADIUS, pixels));
    this.paint();
  }

  get value() {
    return this.tool === "eraser" || this.isErasing ? SKIN : LESION;
  }

  // ---- steps: begin, move, end; the same for pointers and keys

  begin(point) {
    const { kind } = TOOLS[this.tool];
    this.step = { before: this.mask.copy(), from: point, last: point, points: [point], kind };
    if (kind === "point") {
      this.mask.fill(point, this.mask.at(point.x, point.y) >= 128 ? SKIN : LESION);
      this.end();
      return;
    }
    this.move([point]);
  }

  /** Go on with the step through some points, those since the last event. */
  move(points) {
    const { step } = this;
    if (step === null) return;
    for (const point of points) {
      if (step.kind === "path") this.mask.stroke(step.last, point, this.radius, this.value);
      step.points.push(point);
      step.last = point;
    }
    if (step.kind !== "path") this.mask.levels.set(step.before.levels);
    if (step.kind === "box") this.mask[this.tool](step.from, step.last, this.value);
    if (step.kind === "outline" && step.points.length >= MIN_OUTLINE) this.mask.outline(step.points, this.value);
    this.paint();
    this.on.change(false);
  }

  end() {
    const { step } = this;
    if (step === null) return;
    this.step = null;
    if (!this.mask.equals(step.before)) {
      this.history.keep(step.before);
      this.on.change(true);
    }
    this.paint();
  }

  cancel() {
    if (this.step === null) return false;
    this.mask.levels.set(this.step.before.levels);
    this.step = null;
    this.paint();
    this.on.change(true);
    return true;
  }

  // ---- listening

  #listen() {
    const { canvas } = this;
    canvas.addEventListener("pointerdown", (event) => this.#down(event));
    canvas.addEventListener("pointermove", (event) => this.#moved(event));
    canvas.addEventListener("pointerup", (event) => this.#up(event));
    canvas.addEventListener("pointercancel", (event) => event.pointerId === this.pointerId && this.cancel());
    canvas.addEventListener("pointerleave", () => {
      this.pointer = null;
      this.paint();
    });
    canvas.addEventListener("contextmenu", (event) => event.preventDefault());
    canvas.addEventListener("keydown", (event) => this.#key(event));
    canvas.addEventListener("blur", () => {
      this.hasKeys = false;
      this.end();
      this.paint();
    });
  }

  #point(event) {
    const box = this.canvas.getBoundingClientRect();
    const scale = [this.mask.width / box.width, this.mask.height / box.height];
    const clamp = (value, limit) => Math.min(limit - 1, Math.max(0, value));
    return {
      x: clamp((event.clientX - box.left) * scale[0] - 0.5, this.mask.width),
      y: clamp((event.clientY - box.top) * scale[1] - 0.5, this.mask.height),
    };
  }

  #down(event) {
    if (!event.isPrimary || ![0, 2, 5].includes(event.button) || this.step !== null) return;
    this.canvas.setPointerCapture(event.pointerId);
    this.pointerId = event.pointerId;
    this.hasKeys = false;
    this.isErasing = event.button !== 0; // the other button, or a pen's eraser
    this.begin(this.#point(event));
  }

  #moved(event) {
    if (!event.isPrimary) return;
    const events = event.getCoalescedEvents?.() ?? [];
    this.pointer = this.#point(event);
    if (this.step !== null && event.pointerId === this.pointerId) {
      this.move((events.length ? events : [event]).map((one) => this.#point(one)));
    } else this.paint();
  }

  #up(event) {
    if (event.pointerId !== this.pointerId) return;
    this.end();
    this.isErasing = false;
  }

  #key(event) {
    const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
    if ((event.ctrlKey || event.metaKey) && (key === "z" || key === "y")) {
      if (key === "y" || event.shiftKey) this.on.redo();
      else this.on.undo();
    } else if (event.ctrlKey || event.metaKey || event.altKey) return;
    else if (MOVES[key]) this.#moveCursor(MOVES[key], event.shiftKey ? 1 : KEY_STEP);
    else if (key === "Enter" || key === " ") this.#press();
    else if (key === "Escape" && this.cancel()) this.on.say("Canceled.");
    else if (key === "[" || key === "]") this.on.radius(this.radius + (key === "]" ? 2 : -2));
    else {
      const tool = Object.keys(TOOLS).find((name) => TOOLS[name].key === key);
      if (tool === undefined) return;
      this.on.tool(tool);
    }
    event.preventDefault();
  }

  #moveCursor([dx, dy], step) {
    this.hasKeys = true;
    this.cursor.x = Math.min(this.mask.width - 1, Math.max(0, this.cursor.x + dx * step));
    this.cursor.y = Math.min(this.mask.height - 1, Math.max(0, this.cursor.y + dy * step));
    this.move([{ ...this.cursor }]);
    this.paint();
    const where = this.mask.at(this.cursor.x, this.cursor.y) >= 128 ? "lesion" : "skin";
    this.on.say(`${this.cursor.x}, ${this.cursor.y}, ${where}`);
  }

  #press() {
    this.hasKeys = true;
    const name = TOOLS[this.tool].name;
    if (this.step !== null) {
      this.end();
      this.on.say(`${name}: done.`);
      return;
    }
    this.begin({ ...this.cursor });
    this.on.say(this.step === null ? `${name}: done.` : `${name}: move with the arrows, Enter ends, Escape cancels.`);
  }

  // ---- showing

  /** Show the mask with the next frame. */
  paint() {
    this.frame ??= requestAnimationFrame(() => {
      this.frame = null;
      this.#draw();
    });
  }

  #draw() {
    const words = new Uint32Array(this.picture.data.buffer);
    for (let place = 0; place < words.length; place++) words[place] = 0xff000000 | (this.mask.levels[place] * 0x010101);
    this.context.putImageData(this.picture, 0, 0);
    if (this.hasKeys) this.#cross(this.cursor);
    const at = this.hasKeys ? this.cursor : this.pointer;
    if (at !== null && TOOLS[this.tool].kind === "path") this.#ring(at);
  }

  #ring({ x, y }) {
    for (const [width, color] of [
      [3, "#000"],
      [1.2, "#fff"],
    ]) {
      this.context.beginPath();
      this.context.arc(x + 0.5, y + 0.5, this.radius, 0, 2 * Math.PI);
      [this.context.lineWidth, this.context.strokeStyle] = [width, color];
      this.context.stroke();
    }
  }

  #cross({ x, y }) {
    for (const [width, color] of [
      [4, "#000"],
      [2, "#ff8a3c"],
    ]) {
      this.context.beginPath();
      for (const [dx, dy] of [
        [7, 0],
        [0, 7],
      ]) {
        this.context.moveTo(x + 0.5 - dx, y + 0.5 - dy);
        this.context.lineTo(x + 0.5 + dx, y + 0.5 + dy);
      }
      [this.context.lineWidth, this.context.strokeStyle] = [width, color];
      this.context.stroke();
    }
  }
}
