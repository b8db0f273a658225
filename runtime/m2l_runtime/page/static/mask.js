// Draw in a mask: 0 is skin, 255 is lesion, nothing between, as there is no antialiasing.

export const SKIN = 0;
export const LESION = 255;

/** A mask of `width` by `height` pixels; `levels` are its rows, one after another. */
export class Mask {
  constructor(width, height, levels = new Uint8Array(width * height)) {
    this.width = width;
    this.height = height;
    this.levels = levels;
  }

  copy() {
    return new Mask(this.width, this.height, this.levels.slice());
  }

  equals(other) {
    return this.levels.every((level, place) => level === other.levels[place]);
  }

  /** Share of the pixels that are lesion, 0 to 1. */
  get area() {
    return this.levels.reduce((sum, level) => sum + (level >= 128), 0) / this.levels.length;
  }

  at(x, y) {
    return this.levels[Math.round(y) * this.width + Math.round(x)];
  }

  clear(value = SKIN) {
    this.levels.fill(value);
  }

  /** Set the pixels in a box for which `isInside(x, y)` is true. */
  #paint(left, top, right, bottom, value, isInside) {
    const [x0, y0] = [Math.max(0, Math.ceil(left)), Math.max(0, Math.ceil(top))];
    const [x1, y1] = [Math.min(this.width - 1, Math.floor(right)), Math.min(this.height - 1, Math.floor(bottom))];
    for (let y = y0; y <= y1; y++) {
      for (let x = x0; x <= x1; x++) if (isInside(x, y)) this.levels[y * this.width + x] = value;
    }
  }

  /** Draw a stroke with round ends from one point to another. */
  stroke(from, to, radius, value) {
    const [dx, dy] = [to.x - from.x, to.y - from.y];
    const long = dx * dx + dy * dy;
    const near = (x, y) => {
      const along = long ? Math.min(1, Math.max(0, ((x - from.x) * dx + (y - from.y) * dy) / long)) : 0;
      const [ax, ay] = [x - from.x - along * dx, y - from.y - along * dy];
      return ax * ax + ay * ay <= radius * radius;
    };
    const [left, right] = [Math.min(from.x, to.x) - radius, Math.max(from.x, to.x) + radius];
    this.#paint(left, Math.min(from.y, to.y) - radius, right, Math.max(from.y, to.y) + radius, value, near);
  }

  /** Draw an ellipse in the box between two corners. */
  ellipse(one, other, value) {
    const [cx, cy] = [(one.x + other.x) / 2, (one.y + other.y) / 2];
    const [rx, ry] = [Math.max(0.5, Math.abs(one.x - other.x) / 2), Math.max(0.5, Math.abs(one.y - other.y) / 2)];
    this.#paint(cx - rx, cy - ry, cx + rx, cy + ry, value, (x, y) => ((x - cx) / rx) ** 2 + ((y - cy) / ry) ** 2 <= 1);
  }

  /** Draw the box between two corners. */
  rectangle(one, other, value) {
    const [x0, x1] = [Math.min(one.x, other.x), Math.max(one.x, other.x)];
    this.#paint(x0, Math.min(one.y, other.y), x1, Math.max(one.y, other.y), value, () => true);
  }

  /** Draw the inside of an outline, by the even-odd rule. */
  outline(points, value) {
    const ys = points.map(({ y }) => y);
    const [top, bottom] = [
      Math.max(0, Math.ceil(Math.min(...ys))),
      Math.min(this.height - 1, Math.floor(Math.max(...ys))),
    ];
    for (let y = top; y <= bottom; y++) {
      const crossings = [];
      points.forEach((b, place) => {
        const a = points.at(place - 1);
        if (a.y > y !== b.y > y) crossings.push(((b.x - a.x) * (y - a.y)) / (b.y - a.y) + a.x);
      });
      crossings.sort((one, other) => one - other);
      for (let pair = 0; pair + 1 < crossings.length; pair += 2) {
        const [from, to] = [
          Math.max(0, Math.ceil(crossings[pair])),
          Math.min(this.width, Math.ceil(crossings[pair + 1])),
        ];
        if (from < to) this.levels.fill(value, y * this.width + from, y * this.width + to);
      }
    }
  }

  /** Turn the area around a point into lesion or skin: all that is joined to it and of its kind. */
  fill(point, value) {
    const { width, height, levels } = this;
    const start = Math.round(point.y) * width + Math.round(point.x);
    const isLesion = levels[start] >= 128;
    if (isLesion === value >= 128) return;
    const waiting = [start];
    while (waiting.length) {
      const place = waiting.pop();
      if (levels[place] >= 128 !== isLesion) continue;
      levels[place] = value;
      const x = place % width;
      if (x > 0) waiting.push(place - 1);
      if (x < width - 1) waiting.push(place + 1);
      if (place >= width) waiting.push(place - width);
      if (place < width * (height - 1)) waiting.push(place + width);
    }
  }

  /** Draw a shape like a lesion's, at random: an ellipse whose outline wavers. */
  lesion(random = Math.random) {
    const side = Math.min(this.width, this.height);
    const radius = side * (0.16 + 0.14 * random());
    const [stretch, turn] = [0.75 + 0.25 * random(), Math.PI * random()];
    const waves = [2, 3, 4, 5, 7].map((count) => [
      count,
      (0.16 * (random() - 0.5) * 3) / count,
      2 * Math.PI * random(),
    ]);
    const [cx, cy] = [this.width * (0.44 + 0.12 * random()), this.height * (0.44 + 0.12 * random())];
    const points = Array.from({ length: 180 }, (_, step) => {
      const angle = (step / 180) * 2 * Math.PI;
      const r =
        radius * (1 + waves.reduce((sum, [count, size, phase]) => sum + size * Math.cos(count * angle + phase), 0));
      const [x, y] = [r * Math.cos(angle), r * Math.sin(angle) * stretch];
      return { x: cx + x * Math.cos(turn) - y * Math.sin(turn), y: cy + x * Math.sin(turn) + y * Math.cos(turn) };
    });
    this.outline(points, LESION);
  }
}
