/**
 * From the logits of windows at the head's resolution to classes at the picture's size, a row at a time
 * (segcore.evaluation.inference and logit_map). Rows hold K classes x width, class by class.
 */

/** @typedef {import("./types.js").Size} Size */
/** @typedef {import("./types.js").Protocol} Protocol */
/** @typedef {{values: Float32Array, size: Size}} Coarse logits (K, height, width) of a window */
/** @typedef {{tops: number[], lefts: number[], window: Size}} Grid */

/**
 * Where windows start along an axis; the last ones shift back inside.
 *
 * @param {number} length
 * @param {number} crop
 * @param {number} stride
 */
export function starts(length, crop, stride) {
  const count = Math.floor(Math.max(length - crop + stride - 1, 0) / stride) + 1;
  return Array.from({ length: count }, (_, i) => Math.max(Math.min(i * stride + crop, length) - crop, 0));
}

/**
 * The windows of a picture of a size; one where the protocol takes it whole.
 *
 * @param {Size} size
 * @param {Protocol} protocol
 * @returns {Grid}
 */
export function gridOf(size, protocol) {
  if (protocol.mode === "whole") return { tops: [0], lefts: [0], window: size };
  const { crop, stride } = protocol;
  return {
    tops: starts(size[0], crop[0], stride[0]),
    lefts: starts(size[1], crop[1], stride[1]),
    window: [Math.min(crop[0], size[0]), Math.min(crop[1], size[1])],
  };
}

/**
 * Where the places of a bilinear resize come from, rounded in float32 as torch does.
 *
 * @param {number} length
 * @param {number} newLength
 */
export function linearTable(length, newLength) {
  const step = Math.fround(length / newLength);
  const first = new Int32Array(newLength);
  const last = new Int32Array(newLength);
  const weight = new Float32Array(newLength);
  for (let i = 0; i < newLength; i++) {
    const place = Math.max(Math.fround(Math.fround(step * Math.fround(i + 0.5)) - 0.5), 0);
    first[i] = Math.min(Math.trunc(place), length - 1);
    last[i] = Math.min(first[i] + 1, length - 1);
    weight[i] = Math.min(Math.fround(place - first[i]), 1);
  }
  return { first, last, weight };
}

/** Logits of one network input, whole or in overlapping windows, and the classes at the picture's size. */
export class LogitMap {
  /**
   * @param {Coarse[]} windows row by row of the grid
   * @param {number} numClasses
   * @param {Grid} grid
   * @param {Size} padded size the windows had in the network
   * @param {Size} size of the resized picture
   * @param {Size} original size of the picture
   * @param {Protocol} protocol
   */
  constructor(windows, numClasses, grid, padded, size, original, protocol) {
    this.numClasses = numClasses;
    this.original = original;
    let isSoftmax = protocol.family === "S" && protocol.probabilities;
    const isDirect = protocol.family === "S" && protocol.mode === "whole" && isEqual(padded, size);
    if (isDirect) {
      // family S interpolates once, from the head to the picture: the map is the head's output itself
      const [{ values, size: coarse }] = windows;
      windows = [{ values: isSoftmax ? softmax(values.slice(), numClasses) : values, size: coarse }];
      grid = { tops: [0], lefts: [0], window: coarse };
      padded = size = coarse;
      isSoftmax = false;
    }
    this.windows = windows;
    this.grid = grid;
    this.size = size;
    this.isSoftmax = isSoftmax;
    this.isProbability = protocol.family === "S" && protocol.probabilities;
    this.windowRows = linearTable(windows[0].size[0], padded[0]);
    this.windowColumns = linearTable(windows[0].size[1], padded[1]);
    this.rows = linearTable(size[0], original[0]);
    this.columns = linearTable(size[1], original[1]);
    this.covered = grid.lefts.reduce((counts, left) => {
      for (let x = left; x < left + grid.window[1]; x++) counts[x] += 1;
      return counts;
    }, new Float32Array(size[1]));
    /** @type {Map<number, Float32Array>} */
    this.known = new Map();
  }

  /**
   * A row of the values at the picture's size: logits, or probabilities where the protocol averages those.
   *
   * @param {number} y
   */
  row(y) {
    const { first, last, weight } = this.rows;
    const isKept = this.size[0] === this.original[0];
    const row = isKept
      ? this.mapRow(y)
      : mixed(this.mapRow(first[y]), this.mapRow(last[y]), weight[y]);
    return stretched(row, this.numClasses, this.size[1], this.columns, this.original[1]);
  }

  /**
   * A row of the map at the size of the resized picture.
   *
   * @param {number} y
   */
  mapRow(y) {
    const known = this.known.get(y);
    if (known) return known;
    const row = this.windows.length === 1 ? this.windowRow(this.windows[0], y) : this.averaged(y);
    if (this.known.size > 2) this.known.clear();
    this.known.set(y, row);
    return row;
  }

  /**
   * The mean of the windows over a row.
   *
   * @param {number} y
   */
  averaged(y) {
    const { tops, lefts, window } = this.grid;
    const width = this.size[1];
    const total = new Float32Array(this.numClasses * width);
    let count = 0;
    tops.forEach((top, i) => {
      if (y < top || y >= top + window[0]) return;
      count += 1;
      lefts.forEach((left, j) => {
        const part = this.windowRow(this.windows[i * lefts.length + j], y - top);
        for (let k = 0; k < this.numClasses; k++) {
          for (let x = 0; x < window[1]; x++) total[k * width + left + x] += part[k * window[1] + x];
        }
      });
    });
    for (let k = 0; k < this.numClasses; k++) {
      for (let x = 0; x < width; x++) total[k * width + x] /= count * this.covered[x];
    }
    return total;
  }

  /**
   * A row of a window, enlarged to what the network saw and cut to what is no padding.
   *
   * @param {Coarse} coarse
   * @param {number} y
   */
  windowRow(coarse, y) {
    const [height, width] = coarse.size;
    const { first, last, weight } = this.windowRows;
    /** @param {number} at */
    const source = (at) => {
      const row = new Float32Array(this.numClasses * width);
      for (let k = 0; k < this.numClasses; k++) {
        const start = (k * height + at) * width;
        row.set(coarse.values.subarray(start, start + width), k * width);
      }
      return row;
    };
    const isKept = this.windowRows.first.length === height;
    const row = isKept ? source(y) : mixed(source(first[y]), source(last[y]), weight[y]);
    const wide = stretched(row, this.numClasses, width, this.windowColumns, this.grid.window[1]);
    return this.isSoftmax ? softmax(wide, this.numClasses) : wide;
  }

  /**
   * Class and confidence of every pixel.
   *
   * @param {(share: number) => void} onProgress
   */
  classes(onProgress = () => {}) {
    const [height, width] = this.original;
    const labels = new Uint8Array(height * width);
    const confidence = new Uint8Array(height * width);
    const best = new Float32Array(width);
    const total = new Float64Array(width);
    for (let y = 0; y < height; y++) {
      const row = this.row(y);
      const label = labels.subarray(y * width, (y + 1) * width);
      best.set(row.subarray(0, width));
      for (let k = 1; k < this.numClasses; k++) {
        for (let x = 0; x < width; x++) {
          const value = row[k * width + x];
          if (value > best[x]) {
            best[x] = value;
            label[x] = k;
          }
        }
      }
      if (!this.isProbability) {
        total.fill(0);
        for (let k = 0; k < this.numClasses; k++) {
          for (let x = 0; x < width; x++) total[x] += Math.exp(row[k * width + x] - best[x]);
        }
      }
      for (let x = 0; x < width; x++) {
        confidence[y * width + x] = Math.round(255 * (this.isProbability ? best[x] : 1 / total[x]));
      }
      if (y % 32 === 0) onProgress(y / height);
    }
    return { labels, confidence };
  }

  /**
   * The probabilities of the classes at a pixel.
   *
   * @param {Size} place
   */
  probabilities([y, x]) {
    const row = this.row(y);
    const width = this.original[1];
    const values = Float32Array.from({ length: this.numClasses }, (_, k) => row[k * width + x]);
    return this.isProbability ? values : softmax(values, this.numClasses);
  }
}

/**
 * @param {Size} one
 * @param {Size} other
 */
function isEqual(one, other) {
  return one[0] === other[0] && one[1] === other[1];
}

/**
 * (1 - weight) * upper + weight * lower.
 *
 * @param {Float32Array} upper
 * @param {Float32Array} lower
 * @param {number} weight
 */
function mixed(upper, lower, weight) {
  if (upper === lower || weight === 0) return upper;
  return upper.map((value, i) => value + weight * (lower[i] - value));
}

/**
 * Resize rows to the table's width, of which the first `width` columns are kept.
 *
 * @param {Float32Array} row
 * @param {number} numClasses
 * @param {number} oldWidth
 * @param {ReturnType<typeof linearTable>} columns
 * @param {number} width
 */
function stretched(row, numClasses, oldWidth, { first, last, weight }, width) {
  if (first.length === oldWidth && width === oldWidth) return row;
  const isKept = first.length === oldWidth;
  const result = new Float32Array(numClasses * width);
  for (let k = 0; k < numClasses; k++) {
    const start = k * oldWidth;
    for (let x = 0; x < width; x++) {
      const value = row[start + (isKept ? x : first[x])];
      result[k * width + x] = isKept ? value : value + weight[x] * (row[start + last[x]] - value);
    }
  }
  return result;
}

/**
 * Turn logits (K, n) into probabilities, in place.
 *
 * @param {Float32Array} values
 * @param {number} numClasses
 */
function softmax(values, numClasses) {
  const count = values.length / numClasses;
  for (let x = 0; x < count; x++) {
    let best = -Infinity;
    for (let k = 0; k < numClasses; k++) best = Math.max(best, values[k * count + x]);
    let total = 0;
    for (let k = 0; k < numClasses; k++) {
      values[k * count + x] = Math.exp(values[k * count + x] - best);
      total += values[k * count + x];
    }
    for (let k = 0; k < numClasses; k++) values[k * count + x] /= total;
  }
  return values;
}
