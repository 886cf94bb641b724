/** Pixels of files, as Python decodes them: no color management, no premultiplied alpha, turned as EXIF says. */

/** @typedef {import("./types.js").Picture} Picture */

/** Pixels above which a picture is refused: a browser's canvas holds no more everywhere. */
const MOST_PIXELS = 4096 * 4096;

/**
 * Decode a file.
 *
 * @param {Blob} file
 * @param {string} name
 * @returns {Promise<Picture>}
 * @throws {Error} with one sentence for the user
 */
export async function decoded(file, name) {
  let bitmap;
  try {
    bitmap = await createImageBitmap(file, { colorSpaceConversion: "none", premultiplyAlpha: "none" });
  } catch {
    throw new Error(`${name} is no picture that this browser can read; give a JPEG, PNG or WebP file.`);
  }
  const { width, height } = bitmap;
  if (width * height > MOST_PIXELS) {
    bitmap.close();
    throw new Error(`${name} has ${width} x ${height} pixels, more than this page takes; make it smaller first.`);
  }
  const canvas = new OffscreenCanvas(width, height);
  const context = /** @type {OffscreenCanvasRenderingContext2D} */ (
    canvas.getContext("2d", { willReadFrequently: true })
  );
  context.drawImage(bitmap, 0, 0);
  bitmap.close();
  return fromRgba(context.getImageData(0, 0, width, height));
}

/**
 * @param {ImageData} image
 * @returns {Picture}
 */
export function fromRgba({ data, width, height }) {
  const rgb = new Uint8Array(width * height * 3);
  for (let i = 0, j = 0; i < data.length; i += 4) {
    rgb[j++] = data[i];
    rgb[j++] = data[i + 1];
    rgb[j++] = data[i + 2];
  }
  return { rgb, size: [height, width] };
}

/**
 * @param {Picture} picture
 * @returns {ImageData}
 */
export function toRgba({ rgb, size: [height, width] }) {
  const image = new ImageData(width, height);
  for (let i = 0, j = 0; j < rgb.length; i += 4) {
    image.data[i] = rgb[j++];
    image.data[i + 1] = rgb[j++];
    image.data[i + 2] = rgb[j++];
    image.data[i + 3] = 255;
  }
  return image;
}
