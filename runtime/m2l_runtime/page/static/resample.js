// Resize a mask as training did: Pillow's antialiased bicubic filter on 8-bit levels, to the bit.
//
// Pillow's Resample.c: the filter (a = -0.5) is stretched by the scale, its weights are normalized and rounded to 22
// binary places, rows are filtered first and then columns, and each pass rounds to a level.

const PLACES = 22;
const SUPPORT = 2;

function bicubic(x) {
  const a = -0.5;
  const t = Math.abs(x);
  if (t < 1) return ((a + 2) * t - (a + 3)) * t * t + 1;
  if (t < 2) return (((t - 5) * t + 8) * t - 4) * a;
  return 0;
}

/** Weights of each output place: where they begin, and integers. */
function weights(from, to) {
  const scale = from / to;
  const stretch = Math.max(scale, 1);
  const support = SUPPORT * stretch;
  return Array.from({ length: to }, (_, place) => {
    const center = (place + 0.5) * scale;
    const first = Math.max(Math.trunc(center - support + 0.5), 0);
    const end = Math.min(Math.trunc(center + support + 0.5), from);
    const values = new Float64Array(end - first);
    let sum = 0;
    for (let x = 0; x < values.length; x++) sum += values[x] = bicubic((x + first - center + 0.5) * (1 / stretch));
    if (sum !== 0) for (let x = 0; x < values.length; x++) values[x] /= sum;
    return { first, values: values.map((v) => Math.trunc((v < 0 ? -0.5 : 0.5) + v * 2 ** PLACES)) };
  });
}

function level(sum) {
  return Math.min(255, Math.max(0, Math.floor(sum / 2 ** PLACES)));
}

/** Filter along x of rows with `stride` between pixels and `pitch` between rows. */
function pass(source, out, table, rows, [stride, pitch], [outStride, outPitch]) {
  for (let row = 0; row < rows; row++) {
    table.forEach(({ first, values }, place) => {
      let sum = 2 ** (PLACES - 1);
      let at = row * pitch + first * stride;
      for (let x = 0; x < values.length; x++, at += stride) sum += source[at] * values[x];
      out[row * outPitch + place * outStride] = level(sum);
    });
  }
}

/** Resize levels (Uint8Array, width * height) to another size. */
export function resize(levels, width, height, toWidth, toHeight) {
  let wide = levels;
  if (width !== toWidth) {
    wide = new Uint8Array(toWidth * height);
    pass(levels, wide, weights(width, toWidth), height, [1, width], [1, toWidth]);
  }
  if (height === toHeight) return wide;
  const out = new Uint8Array(toWidth * toHeight);
  pass(wide, out, weights(height, toHeight), toWidth, [toWidth, 1], [toWidth, 1]);
  return out;
}
