/**
 * What manifest.json holds (segcore.web.manifest) and what page and worker tell each other. Sizes are [height, width].
 *
 * @typedef {[number, number]} Size
 *
 * @typedef {object} Protocol
 * @property {"M" | "S"} family
 * @property {"whole" | "slide"} mode
 * @property {[number, number]} scale width and height
 * @property {boolean} keep_ratio
 * @property {number} resize_divisor
 * @property {Size} crop
 * @property {Size} stride
 * @property {boolean} probabilities
 *
 * @typedef {object} Network
 * @property {string} name
 * @property {string} title
 * @property {string} paper
 * @property {string} recipe
 * @property {string} backbone
 * @property {string} file
 * @property {number} bytes
 * @property {string} sha256
 * @property {"float32" | "int8"} precision
 * @property {string | null} of
 * @property {string[]} classes
 * @property {[number, number, number][]} palette
 * @property {Protocol} protocol
 * @property {number} parameters
 * @property {number | null} miou
 * @property {number} seconds
 * @property {{image: string, labels: string}} golden
 *
 * @typedef {object} Manifest
 * @property {number} version
 * @property {string} segcore
 * @property {{version: string, base: string, files: Record<string, string>}} runtime
 * @property {{file: string, name: string}[]} examples
 * @property {Network[]} networks
 *
 * @typedef {object} Picture
 * @property {Uint8Array} rgb (H * W * 3)
 * @property {Size} size
 *
 * @typedef {object} Answer
 * @property {Uint8Array} labels (H * W) class numbers
 * @property {Uint8Array} confidence (H * W) the largest probability, 255 is 1
 * @property {number} seconds from picture to label map
 *
 * @typedef {{kind: "start", manifest: Manifest}
 *   | {kind: "load", network: string}
 *   | {kind: "predict", network: string, turn: number, picture: Picture}
 *   | {kind: "probe", network: string, turn: number, place: Size}} Request
 *
 * @typedef {{kind: "ready", device: string}
 *   | {kind: "progress", network: string, share: number, what: string}
 *   | {kind: "verified", network: string, device: string, share: number}
 *   | {kind: "answer", network: string, turn: number, answer: Answer}
 *   | {kind: "probabilities", network: string, turn: number, place: Size, values: Float32Array}
 *   | {kind: "failed", network: string | null, sentence: string}} Report
 */

export {};
