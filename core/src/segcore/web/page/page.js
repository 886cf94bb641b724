/** The page: chooses pictures and networks, lets the worker answer, and draws what it says. */

import { decoded, fromRgba, toRgba } from "./pictures.js";

/** @typedef {import("./types.js").Answer} Answer */
/** @typedef {import("./types.js").Manifest} Manifest */
/** @typedef {import("./types.js").Network} Network */
/** @typedef {import("./types.js").Picture} Picture */
/** @typedef {import("./types.js").Report} Report */
/** @typedef {import("./types.js").Size} Size */

/** Networks that are chosen at first: each takes its time to load. */
const FIRST = 2;
const DIFFERENT = [220, 30, 60];

/**
 * @template {HTMLElement} T
 * @param {string} id
 * @returns {T}
 */
const element = (id) => /** @type {T} */ (document.getElementById(id));

/** @type {HTMLElement} */
const failure = element("failure");
/** @type {HTMLProgressElement} */
const progress = element("progress");
/** @type {HTMLInputElement} */
const opacity = element("opacity");
/** @type {HTMLDialogElement} */
const cameraDialog = element("camera-dialog");
/** @type {HTMLVideoElement} */
const video = element("video");

/** @type {Manifest} */
let manifest;
/** @type {Worker} */
let worker;
/** @type {Picture | null} */
let picture = null;
/** Counts pictures, so that answers about an earlier one are dropped. */
let turn = 0;
/** @type {Size | null} */
let place = null;
/** @type {Map<string, {network: Network, box: HTMLInputElement, state: HTMLElement}>} */
const choices = new Map();
/** @type {Map<string, {answer: Answer, card: HTMLElement, canvas: HTMLCanvasElement}>} */
const answers = new Map();
/** Networks that work is under way for, and how far it is. @type {Map<string, number>} */
const pending = new Map();

/** @param {string} sentence */
function fail(sentence) {
  failure.textContent = sentence;
  failure.hidden = false;
}

/** @param {string} sentence */
function say(sentence) {
  element("status").textContent = sentence;
}

/** @param {unknown} error */
const sentenceOf = (error) => (error instanceof Error ? error.message : String(error));

async function start() {
  const missing = ["Worker", "WebAssembly", "OffscreenCanvas", "createImageBitmap"].filter((name) => !(name in window));
  if (!window.crypto?.subtle) missing.push("a secure address (https, or this machine's own)");
  if (missing.length) return fail(`This browser lacks ${missing.join(", ")}, which the page needs; try a current one.`);
  try {
    const response = await fetch("manifest.json");
    if (!response.ok) throw new Error(String(response.status));
    manifest = await response.json();
  } catch (error) {
    return fail(`manifest.json could not be read (${sentenceOf(error)}); serve the folder: segcore web FOLDER.`);
  }
  worker = new Worker(new URL("worker.js", import.meta.url), { type: "module" });
  worker.addEventListener("message", ({ data }) => heard(data));
  worker.addEventListener("error", () => fail("The page's worker could not be started; try a current browser."));
  say("Loading the runtime …");
  worker.postMessage({ kind: "start", manifest });
  manifest.networks.forEach((network, i) => element("networks").append(choice(network, i < FIRST)));
  for (const example of manifest.examples) element("examples").append(exampleButton(example));
}

/**
 * @param {Network} network
 * @param {boolean} isChosen
 */
function choice(network, isChosen) {
  const item = document.createElement("li");
  const label = item.appendChild(document.createElement("label"));
  const box = label.appendChild(document.createElement("input"));
  box.type = "checkbox";
  box.checked = isChosen;
  const name = label.appendChild(text("span", network.name, "name"));
  const state = name.appendChild(text("span", "", "state"));
  label.append(text("span", factsOf(network), "facts quiet"));
  choices.set(network.name, { network, box, state });
  box.addEventListener("change", () => {
    if (box.checked) use(network.name);
    else forget(network.name);
  });
  return item;
}

/** @param {Network} network */
function factsOf(network) {
  const facts = [network.title, network.backbone, `${(network.parameters / 1e6).toFixed(1)} M parameters`];
  facts.push(`${network.precision}, ${(network.bytes / 2 ** 20).toFixed(1)} MiB`);
  const float = manifest.networks.find((other) => other.name === network.of);
  if (network.miou !== null) {
    const before = float?.miou === null || !float ? "" : ` (float32: ${(100 * float.miou).toFixed(2)} %)`;
    facts.push(`mIoU ${(100 * network.miou).toFixed(2)} %${before}`);
  }
  if (float) facts.push(`${(float.seconds / network.seconds).toFixed(2)} times as fast as float32 where it was exported`);
  return facts.join(" · ");
}

/** @param {{file: string, name: string}} example */
function exampleButton(example) {
  const button = document.createElement("button");
  button.type = "button";
  const image = button.appendChild(document.createElement("img"));
  image.src = example.file;
  image.alt = example.name;
  button.addEventListener("click", async () => {
    const response = await fetch(example.file).catch(() => null);
    if (response?.ok) await take(await response.blob(), example.name);
    else fail(`${example.name} could not be loaded; is the server still running?`);
  });
  return button;
}

/**
 * @param {string} kind
 * @param {string} content
 * @param {string} names
 */
function text(kind, content, names = "") {
  const node = document.createElement(kind);
  node.textContent = content;
  node.className = names;
  return node;
}

/**
 * Take a picture from a file.
 *
 * @param {Blob} file
 * @param {string} name
 */
async function take(file, name) {
  try {
    show(await decoded(file, name));
  } catch (error) {
    fail(sentenceOf(error));
  }
}

/** @param {Picture} taken */
function show(taken) {
  failure.hidden = true;
  picture = taken;
  turn += 1;
  place = null;
  for (const name of [...answers.keys()]) forget(name);
  for (const [name, { box }] of choices) if (box.checked) use(name);
}

/** @param {string} name */
function use(name) {
  if (!picture) {
    ask(name, { kind: "load", network: name });
    return;
  }
  ask(name, { kind: "load", network: name });
  ask(name, { kind: "predict", network: name, turn, picture });
}

/**
 * @param {string} name
 * @param {import("./types.js").Request} request
 */
function ask(name, request) {
  if (!pending.has(name)) pending.set(name, 0);
  drawProgress();
  worker.postMessage(request);
}

/** @param {string} name */
function forget(name) {
  answers.get(name)?.card.remove();
  answers.delete(name);
  drawAgreement();
}

/** @param {Report} report */
function heard(report) {
  if (report.kind === "ready") {
    element("device").textContent = `Computing with ${report.device === "webgpu" ? "WebGPU" : "WebAssembly"}.`;
    say("Loading the networks …");
    for (const [name, { box }] of choices) if (box.checked && !pending.has(name)) use(name);
    return;
  }
  if (report.kind === "failed") return failed(report.network, report.sentence);
  const chosen = choices.get(report.network);
  if (!chosen) return;
  if (report.kind === "progress") {
    pending.set(report.network, report.share);
    if (report.what !== "computing") state(report.network, report.what, "");
    say(`${report.network}: ${report.what} …`);
  } else if (report.kind === "verified") {
    const count = report.share ? `, ${(100 * report.share).toFixed(3)} % of the pixels differ by rounding` : "";
    state(report.network, `verified${report.device === "wasm" ? "" : " on WebGPU"}`, "verified");
    say(`${report.network} is verified: its golden picture gives the label map it gives in Python${count}.`);
    if (!picture) pending.delete(report.network);
  } else if (report.kind === "answer") {
    if (report.turn !== turn || !chosen.box.checked) return;
    pending.delete(report.network);
    addCard(chosen.network, report.answer);
    say(`${report.network} answered in ${report.answer.seconds.toFixed(2)} s.`);
  } else if (report.turn === turn) {
    drawProbabilities(report.network, report.values);
  }
  drawProgress();
}

/**
 * @param {string | null} name
 * @param {string} sentence
 */
function failed(name, sentence) {
  fail(sentence);
  say("");
  if (name === null) pending.clear();
  else {
    pending.delete(name);
    state(name, "failed", "failed");
  }
  drawProgress();
}

/**
 * @param {string} name
 * @param {string} words
 * @param {string} kind
 */
function state(name, words, kind) {
  const chosen = choices.get(name);
  if (!chosen || (chosen.state.classList.contains("verified") && kind === "")) return;
  chosen.state.textContent = words;
  chosen.state.className = `state ${kind}`;
}

function drawProgress() {
  element("work").hidden = pending.size === 0;
  const shares = [...pending.values()];
  progress.value = shares.reduce((sum, share) => sum + share, 0) / Math.max(shares.length, 1);
}

/**
 * @param {Network} network
 * @param {Answer} answer
 */
function addCard(network, answer) {
  answers.get(network.name)?.card.remove();
  /** @type {HTMLTemplateElement} */
  const template = element("card-template");
  const card = /** @type {HTMLElement} */ (template.content.cloneNode(true)).querySelector("article");
  if (!card || !picture) return;
  /** @param {string} selector */
  const part = (selector) => /** @type {HTMLElement} */ (card.querySelector(selector));
  const canvas = /** @type {HTMLCanvasElement} */ (card.querySelector("canvas"));
  const heading = part("h3");
  heading.textContent = network.name;
  const [height, width] = picture.size;
  canvas.width = width;
  canvas.height = height;
  part(".seconds").textContent = `${answer.seconds.toFixed(2)} s from picture to label map, ${width} x ${height} pixels`;
  const shares = sharesOf(answer.labels, network.classes.length);
  const order = [...shares.keys()].filter((k) => shares[k] > 0).sort((a, b) => shares[b] - shares[a]);
  for (const k of order) {
    const row = part("tbody").appendChild(document.createElement("tr"));
    const cell = row.appendChild(document.createElement("td"));
    cell.append(swatch(network.palette[k]), network.classes[k]);
    row.append(text("td", `${(100 * shares[k]).toFixed(2)} %`, "number"));
  }
  canvas.setAttribute(
    "aria-label",
    `Label map of ${network.name}: ${order.slice(0, 5).map((k) => `${network.classes[k]} ${(100 * shares[k]).toFixed(0)} %`).join(", ")}`,
  );
  canvas.addEventListener("click", (event) => {
    const box = canvas.getBoundingClientRect();
    probe([
      Math.floor(((event.clientY - box.top) / box.height) * height),
      Math.floor(((event.clientX - box.left) / box.width) * width),
    ]);
  });
  canvas.addEventListener("keydown", (event) => moved(event));
  part(".save-labels").addEventListener("click", () => saveLabels(network, answer));
  part(".save-overlay").addEventListener("click", () => save(canvas, `${network.name}-overlay.png`));
  answers.set(network.name, { answer, card, canvas });
  const names = [...choices.keys()];
  const next = names.slice(names.indexOf(network.name) + 1).find((name) => answers.has(name));
  element("cards").insertBefore(card, (next && answers.get(next)?.card) || null);
  element("results").hidden = false;
  drawAgreement();
  if (place) probe(place);
}

/** @param {number[]} color */
function swatch(color) {
  const mark = text("span", "", "swatch");
  mark.style.background = `rgb(${color.join(" ")})`;
  return mark;
}

/**
 * @param {Uint8Array} labels
 * @param {number} numClasses
 */
function sharesOf(labels, numClasses) {
  const counts = new Array(numClasses).fill(0);
  for (const label of labels) counts[label] += 1;
  return counts.map((count) => count / labels.length);
}

/** Pixels whose class is not the same by name in all answers. */
function differing() {
  const [first, ...rest] = [...answers].map(([name, { answer }]) => ({ labels: answer.labels, network: networkOf(name) }));
  const result = new Uint8Array(first.labels.length);
  for (const { labels, network } of rest) {
    const same = first.network.classes.map((name) => network.classes.indexOf(name));
    for (let i = 0; i < labels.length; i++) if (same[first.labels[i]] !== labels[i]) result[i] = 1;
  }
  return result;
}

/** @param {string} name */
const networkOf = (name) => /** @type {{network: Network}} */ (choices.get(name)).network;

function drawAgreement() {
  const isSeveral = answers.size > 1;
  element("differences-choice").hidden = !isSeveral;
  element("agreement").hidden = !isSeveral;
  if (isSeveral) {
    const mask = differing();
    const share = mask.reduce((sum, one) => sum + one, 0) / mask.length;
    element("agreement").textContent = `The ${answers.size} networks differ at ${(100 * share).toFixed(2)} % of the pixels.`;
  } else if (view() === "differences") {
    /** @type {HTMLInputElement} */ (document.querySelector("input[value=classes]")).checked = true;
  }
  draw();
}

/** What is laid over the picture. */
function view() {
  return /** @type {HTMLInputElement} */ (document.querySelector("input[name=view]:checked")).value;
}

function draw() {
  if (!picture || !answers.size) return;
  const chosen = view();
  const share = Number(opacity.value);
  const mask = chosen === "differences" ? differing() : null;
  for (const [name, { answer, canvas }] of answers) {
    const { palette } = networkOf(name);
    const image = toRgba(picture);
    for (let i = 0, j = 0; i < answer.labels.length; i++, j += 4) {
      if (mask && !mask[i]) continue;
      const gray = answer.confidence[i];
      const color = mask ? DIFFERENT : chosen === "classes" ? palette[answer.labels[i]] : [gray, gray, gray];
      for (let c = 0; c < 3; c++) image.data[j + c] += share * (color[c] - image.data[j + c]);
    }
    /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d")).putImageData(image, 0, 0);
  }
}

/** @param {Size} wanted */
function probe(wanted) {
  if (!picture) return;
  const [height, width] = picture.size;
  place = [Math.min(Math.max(wanted[0], 0), height - 1), Math.min(Math.max(wanted[1], 0), width - 1)];
  for (const [name, { card }] of answers) {
    const mark = /** @type {HTMLElement} */ (card.querySelector(".mark"));
    mark.hidden = false;
    mark.style.top = `${(100 * (place[0] + 0.5)) / height}%`;
    mark.style.left = `${(100 * (place[1] + 0.5)) / width}%`;
    worker.postMessage({ kind: "probe", network: name, turn, place });
  }
}

/** @param {KeyboardEvent} event */
function moved(event) {
  /** @type {Record<string, Size>} */
  const steps = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
  const step = steps[event.key];
  if (!step || !picture) return;
  event.preventDefault();
  const from = place ?? [picture.size[0] >> 1, picture.size[1] >> 1];
  const length = event.shiftKey ? 10 : 1;
  probe([from[0] + step[0] * length, from[1] + step[1] * length]);
}

/**
 * @param {string} name
 * @param {Float32Array} values
 */
function drawProbabilities(name, values) {
  const entry = answers.get(name);
  if (!entry || !place) return;
  const { classes, palette } = networkOf(name);
  const panel = /** @type {HTMLElement} */ (entry.card.querySelector(".probabilities"));
  const order = [...values.keys()].sort((a, b) => values[b] - values[a]).slice(0, 5);
  panel.replaceChildren(text("p", `Pixel in row ${place[0]}, column ${place[1]}:`));
  for (const k of order) {
    const bar = text("span", "", "bar");
    bar.style.width = `${100 * values[k]}%`;
    bar.style.background = `rgb(${palette[k].join(" ")})`;
    panel.append(text("span", classes[k]), bar, text("span", `${(100 * values[k]).toFixed(1)} %`, "number"));
  }
}

/**
 * Save the class numbers as a gray picture.
 *
 * @param {Network} network
 * @param {Answer} answer
 */
function saveLabels(network, { labels }) {
  if (!picture) return;
  const rgb = new Uint8Array(3 * labels.length);
  labels.forEach((label, i) => rgb.fill(label, 3 * i, 3 * i + 3));
  const canvas = document.createElement("canvas");
  [canvas.height, canvas.width] = picture.size;
  /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d")).putImageData(toRgba({ rgb, size: picture.size }), 0, 0);
  save(canvas, `${network.name}-labels.png`);
}

/**
 * @param {HTMLCanvasElement} canvas
 * @param {string} name
 */
function save(canvas, name) {
  canvas.toBlob((blob) => {
    if (!blob) return;
    const link = document.createElement("a");
    link.href = URL.createObjectURL(blob);
    link.download = name;
    link.click();
    URL.revokeObjectURL(link.href);
  });
}

async function openCamera() {
  try {
    video.srcObject = await navigator.mediaDevices.getUserMedia({ video: true });
    cameraDialog.showModal();
  } catch {
    fail("No camera could be opened: there is none, or this page may not use it.");
  }
}

function closeCamera() {
  const stream = /** @type {MediaStream | null} */ (video.srcObject);
  stream?.getTracks().forEach((track) => track.stop());
  video.srcObject = null;
  cameraDialog.close();
}

function shoot() {
  const canvas = new OffscreenCanvas(video.videoWidth, video.videoHeight);
  const context = /** @type {OffscreenCanvasRenderingContext2D} */ (canvas.getContext("2d"));
  if (!canvas.width) return;
  context.drawImage(video, 0, 0);
  show(fromRgba(context.getImageData(0, 0, canvas.width, canvas.height)));
  closeCamera();
}

/** @param {FileList | null | undefined} files */
function takeFirst(files) {
  const file = files?.[0];
  if (file) take(file, file.name || "The pasted picture");
}

/** @type {HTMLInputElement} */
const fileInput = element("file");
fileInput.addEventListener("change", () => {
  takeFirst(fileInput.files);
  fileInput.value = "";
});
document.addEventListener("paste", (event) => takeFirst(event.clipboardData?.files));
document.addEventListener("dragover", (event) => {
  event.preventDefault();
  document.body.classList.add("dropping");
});
document.addEventListener("dragleave", () => document.body.classList.remove("dropping"));
document.addEventListener("drop", (event) => {
  event.preventDefault();
  document.body.classList.remove("dropping");
  takeFirst(event.dataTransfer?.files);
});
element("camera").addEventListener("click", openCamera);
element("shoot").addEventListener("click", shoot);
element("cancel").addEventListener("click", closeCamera);
cameraDialog.addEventListener("cancel", closeCamera);
opacity.addEventListener("input", draw);
document.querySelectorAll("input[name=view]").forEach((radio) => radio.addEventListener("change", draw));
start();
