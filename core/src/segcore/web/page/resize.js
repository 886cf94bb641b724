/** Resizing as segcore does it: the size of a test, and OpenCV's bilinear resize of bytes, bit by bit. */

/** @typedef {import("./types.js").Size} Size */
/** @typedef {import("./types.js").Picture} Picture */
/** @typedef {import("./types.js").Protocol} Protocol */

/**
 * The size that a test resizes a picture to (segcore.images.transforms.resized_size, one scale).
 *
 * @param {Size} size
 * @param {Protocol} protocol
 * @returns {Size}
 */
export function resizedSize([height, width], protocol) {
  const [boundWidth, boundHeight] = protocol.scale;
  const longest = Math.max(boundWidth, boundHeight);
  const shortest = Math.min(boundWidth, boundHeight);
  if (protocol.keep_ratio) {
    const factor = Math.min(longest / Math.max(height, width), shortest / Math.min(height, width));
    return [Math.max(Math.trunc(height * factor + 0.5), 1), Math.max(Math.trunc(width * factor + 0.5), 1)];
  }
  if (protocol.family === "S") return height > width ? [longest, shortest] : [shortest, longest];
  return [boundHeight, boundWidth];
}

/**
 * What the network's test sees of a picture.
 *
 * @param {Picture} picture
 * @param {Protocol} protocol
 * @returns {Picture}
 */
export function resizedForTest(picture, protocol) {
  const resized = resized8Bit(picture, resizedSize(picture.size, protocol));
  const divisor = protocol.resize_divisor;
  if (!divisor) return resized;
  const [height, width] = resized.size;
  return resized8Bit(resized, [Math.ceil(height / divisor) * divisor, Math.ceil(width / divisor) * divisor]);
}

/**
 * cv2.resize with INTER_LINEAR of 8-bit pixels: weights of 11 bits, products in integers.
 *
 * @param {Picture} picture
 * @param {Size} size
 * @returns {Picture}
 */
export function resized8Bit(picture, size) {
  const [oldHeight, oldWidth] = picture.size;
  const [height, width] = size;
  if (oldHeight === height && oldWidth === width) return picture;
  const down = table(oldHeight, height, false);
  const across = table(oldWidth, width, true);
  const rgb = new Uint8Array(height * width * 3);
  /** @type {Map<number, Int32Array>} */
  const rows = new Map();
  /** @param {number} y */
  const wide = (y) => {
    const known = rows.get(y);
    if (known) return known;
    const row = new Int32Array(width * 3);
    const start = y * oldWidth * 3;
    for (let x = 0; x < width; x++) {
      const left = start + across.lower[x] * 3;
      const right = start + across.upper[x] * 3;
      for (let c = 0; c < 3; c++) {
        row[x * 3 + c] = picture.rgb[left + c] * across.near[x] + picture.rgb[right + c] * across.far[x];
      }
    }
    if (rows.size > 3) rows.clear();
    rows.set(y, row);
    return row;
  };
  for (let y = 0; y < height; y++) {
    const upper = wide(down.lower[y]);
    const lower = wide(down.upper[y]);
    const [near, far] = [down.near[y], down.far[y]];
    for (let i = 0; i < width * 3; i++) {
      const value = (((near * (upper[i] >> 4)) >> 16) + ((far * (lower[i] >> 4)) >> 16) + 2) >> 2;
      rgb[y * width * 3 + i] = Math.min(Math.max(value, 0), 255);
    }
  }
  return { rgb, size };
}

/**
 * Where the pixels of a resized axis come from, and their weights of 2048.
 *
 * @param {number} length
 * @param {number} newLength
 * @param {boolean} isAcross OpenCV treats the ends of rows and columns differently
 */
function table(length, newLength, isAcross) {
  const lower = new Int32Array(newLength);
  const upper = new Int32Array(newLength);
  const near = new Int32Array(newLength);
  const far = new Int32Array(newLength);
  for (let i = 0; i < newLength; i++) {
    const place = Math.fround((i + 0.5) * (length / newLength) - 0.5);
    const first = Math.floor(place);
    const isOutside = first < 0 || first >= length - 1;
    const share = isAcross && isOutside ? 0 : Math.fround(place - first);
    lower[i] = Math.min(Math.max(first, 0), length - 1);
    upper[i] = Math.min(Math.max(first + 1, 0), length - 1);
    near[i] = toEven(Math.fround(Math.fround(1 - share) * 2048));
    far[i] = toEven(Math.fround(share * 2048));
  }
  return { lower, upper, near, far };
}

/**
 * The nearest integer, of two the even one.
 *
 * @param {number} value
 */
function toEven(value) {
  const down = Math.floor(value);
  if (value - down !== 0.5) return Math.round(value);
  return down % 2 === 0 ? down : down + 1;
}
