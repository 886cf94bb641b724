/** Runs the networks, away from the page: loads the runtime and the graphs, checks them, answers. */

import { LogitMap, gridOf } from "./logits.js";
import { decoded } from "./pictures.js";
import { resizedForTest } from "./resize.js";

/** @typedef {import("./types.js").Network} Network */
/** @typedef {import("./types.js").Picture} Picture */
/** @typedef {import("./types.js").Report} Report */
/** @typedef {import("./types.js").Request} Request */
/** @typedef {{network: Network, session: import("onnxruntime-web").InferenceSession, map?: LogitMap, turn: number}} Loaded */

/** Share of the pixels of a golden picture that rounding may turn. */
const MOST_DIFFERING = 1e-3;
const WEBGPU = { script: "ort.webgpu.bundle.min.mjs", wasm: "ort-wasm-simd-threaded.asyncify.wasm" };
const PLAIN = { script: "ort.wasm.bundle.min.mjs", wasm: "ort-wasm-simd-threaded.wasm" };

/** @type {typeof import("onnxruntime-web")} */
let ort;
/** @type {import("./types.js").Manifest} */
let manifest;
/** @type {"webgpu" | "wasm"} */
let device = "wasm";
/** @type {Map<string, Loaded>} */
const loaded = new Map();
/** Requests run one after the other: the runtime takes one at a time. */
let queue = Promise.resolve();

self.addEventListener("message", ({ data }) => {
  queue = queue.then(() => answer(data));
});

/** @param {Request} request */
async function answer(request) {
  try {
    if (request.kind === "start") await start(request.manifest);
    else if (request.kind === "load") await load(request.network);
    else if (request.kind === "predict") await predict(request.network, request.turn, request.picture);
    else probe(request.network, request.turn, request.place);
  } catch (error) {
    const network = "network" in request ? request.network : null;
    report({ kind: "failed", network, sentence: error instanceof Error ? error.message : String(error) });
  }
}

/**
 * @param {Report} message
 * @param {Transferable[]} given
 */
function report(message, given = []) {
  self.postMessage(message, { transfer: given });
}

/** @param {import("./types.js").Manifest} read */
async function start(read) {
  manifest = read;
  device = (await hasWebGpu()) ? "webgpu" : "wasm";
  const { script, wasm } = device === "webgpu" ? WEBGPU : PLAIN;
  const [code, binary] = await Promise.all([runtimeFile(script), runtimeFile(wasm)]);
  const address = URL.createObjectURL(new Blob([code], { type: "text/javascript" }));
  ort = await import(address);
  ort.env.wasm.wasmBinary = binary;
  ort.env.wasm.numThreads = self.crossOriginIsolated ? Math.min(navigator.hardwareConcurrency || 1, 8) : 1;
  ort.env.logLevel = "error";
  report({ kind: "ready", device });
}

async function hasWebGpu() {
  try {
    // @ts-ignore: not in every browser, nor in every version of the types
    return Boolean(await navigator.gpu?.requestAdapter());
  } catch {
    return false;
  }
}

/**
 * Load a file of the runtime, which is run only if it is the one that was meant.
 *
 * @param {string} name
 */
async function runtimeFile(name) {
  const address = new URL(manifest.runtime.base + name, self.location.href).href;
  const content = await fetched(address, "the runtime", () => {});
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-384", content));
  const integrity = `sha384-${btoa(String.fromCharCode(...digest))}`;
  if (integrity !== manifest.runtime.files[name]) {
    throw new Error(`${name} is not the runtime that this page was made with (its hash differs): it is not run.`);
  }
  return content;
}

/**
 * @param {string} address
 * @param {string} what
 * @param {(share: number, total: number) => void} onProgress
 * @returns {Promise<ArrayBuffer>}
 */
async function fetched(address, what, onProgress, expected = 0) {
  let response;
  try {
    response = await fetch(address);
  } catch {
    throw new Error(`${what} could not be loaded from ${address}: is the network there, and the server running?`);
  }
  if (!response.ok || !response.body) throw new Error(`${what} could not be loaded: ${address} says ${response.status}.`);
  const total = expected || Number(response.headers.get("content-length")) || 0;
  /** @type {Uint8Array<ArrayBuffer>[]} */
  const parts = [];
  let received = 0;
  for (const reader = response.body.getReader(); ; ) {
    const { done, value } = await reader.read();
    if (done) break;
    parts.push(value);
    received += value.length;
    onProgress(total ? received / total : 0, total);
  }
  return new Blob(parts).arrayBuffer();
}

/** @param {string} name */
async function load(name) {
  if (loaded.has(name)) return;
  const network = /** @type {Network} */ (manifest.networks.find((one) => one.name === name));
  const content = await fetched(
    network.file,
    network.file,
    (share) => report({ kind: "progress", network: name, share: 0.8 * share, what: "loading" }),
    network.bytes,
  );
  await checkNetwork(network, content);
  report({ kind: "progress", network: name, share: 0.85, what: "preparing" });
  let entry = await opened(network, content, device);
  report({ kind: "progress", network: name, share: 0.9, what: "verifying" });
  let used = device;
  let share = await differing(entry);
  if (share > MOST_DIFFERING && device === "webgpu") {
    entry = await opened(network, content, "wasm");
    used = "wasm";
    share = await differing(entry);
  }
  if (share > MOST_DIFFERING) {
    throw new Error(
      `${name} does not give its golden picture's label map here: ${(100 * share).toFixed(2)} % of the pixels differ.`,
    );
  }
  loaded.set(name, entry);
  report({ kind: "verified", network: name, device: used, share });
}

/**
 * @param {Network} network
 * @param {ArrayBuffer} content
 */
async function checkNetwork(network, content) {
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", content));
  const hash = Array.from(digest, (byte) => byte.toString(16).padStart(2, "0")).join("");
  if (hash !== network.sha256) throw new Error(`${network.file} is damaged: it is not the file that was exported.`);
}

/**
 * @param {Network} network
 * @param {ArrayBuffer} content
 * @param {"webgpu" | "wasm"} provider
 * @returns {Promise<Loaded>}
 */
async function opened(network, content, provider) {
  const options = { executionProviders: [provider], logSeverityLevel: /** @type {3} */ (3) }; // errors alone
  const session = await ort.InferenceSession.create(new Uint8Array(content), options);
  return { network, session, turn: -1 };
}

/**
 * The share of the pixels of the golden picture that get another class than in Python.
 *
 * @param {Loaded} entry
 */
async function differing(entry) {
  const { golden } = entry.network;
  const [image, expected] = await Promise.all([asset(golden.image), asset(golden.labels)]);
  const { labels } = (await mapOf(entry, image)).classes();
  let count = 0;
  for (let i = 0; i < labels.length; i++) if (labels[i] !== expected.rgb[3 * i]) count += 1;
  return count / labels.length;
}

/** @param {string} file */
async function asset(file) {
  return decoded(new Blob([await fetched(file, file, () => {})]), file);
}

/**
 * @param {Loaded} entry
 * @param {Picture} picture
 * @param {(share: number) => void} onProgress
 */
async function mapOf({ network, session }, picture, onProgress = () => {}) {
  const seen = resizedForTest(picture, network.protocol);
  const grid = gridOf(seen.size, network.protocol);
  const places = grid.tops.flatMap((top) => grid.lefts.map((left) => [top, left]));
  const windows = [];
  /** @type {import("./types.js").Size} */
  let padded = seen.size;
  for (const [number, [top, left]] of places.entries()) {
    const image = new ort.Tensor("uint8", planes(seen, top, left, grid.window), [1, 3, ...grid.window]);
    const { coarse, padded_size: sides } = await session.run({ image });
    padded = [Number(sides.data[0]), Number(sides.data[1])];
    const [, , height, width] = coarse.dims;
    windows.push({ values: /** @type {Float32Array} */ (coarse.data), size: /** @type {[number, number]} */ ([height, width]) });
    onProgress((number + 1) / places.length);
  }
  const numClasses = network.classes.length;
  return new LogitMap(windows, numClasses, grid, padded, seen.size, picture.size, network.protocol);
}

/**
 * A window of a picture, channel by channel.
 *
 * @param {Picture} picture
 * @param {number} top
 * @param {number} left
 * @param {import("./types.js").Size} window
 */
function planes({ rgb, size }, top, left, [height, width]) {
  const result = new Uint8Array(3 * height * width);
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      const from = ((top + y) * size[1] + left + x) * 3;
      for (let c = 0; c < 3; c++) result[(c * height + y) * width + x] = rgb[from + c];
    }
  }
  return result;
}

/**
 * @param {string} name
 * @param {number} turn
 * @param {Picture} picture
 */
async function predict(name, turn, picture) {
  const entry = loaded.get(name);
  if (!entry) return;
  const started = performance.now();
  /** @param {number} share */
  const tell = (share) => report({ kind: "progress", network: name, share, what: "computing" });
  tell(0);
  entry.map = await mapOf(entry, picture, (share) => tell(0.8 * share));
  entry.turn = turn;
  const { labels, confidence } = entry.map.classes((share) => tell(0.8 + 0.2 * share));
  const seconds = (performance.now() - started) / 1000;
  report({ kind: "answer", network: name, turn, answer: { labels, confidence, seconds } }, [labels.buffer, confidence.buffer]);
}

/**
 * @param {string} name
 * @param {number} turn
 * @param {import("./types.js").Size} place
 */
function probe(name, turn, place) {
  const entry = loaded.get(name);
  if (!entry?.map || entry.turn !== turn) return;
  report({ kind: "probabilities", network: name, turn, place, values: entry.map.probabilities(place) });
}
