// Runs the page's pure modules on cases from Python: node page_modules.mjs PAGE_FOLDER < cases.json > results.json

import { readFileSync } from "node:fs";
import { pathToFileURL } from "node:url";

const folder = pathToFileURL(`${process.argv[2]}/`);
const { resized8Bit, resizedForTest } = await import(new URL("resize.js", folder));
const { LogitMap, gridOf } = await import(new URL("logits.js", folder));
const { resizes, tests, maps } = JSON.parse(readFileSync(0, "utf8"));

const bytes = (text) => new Uint8Array(Buffer.from(text, "base64"));
const base64 = (array) => Buffer.from(array.buffer, array.byteOffset, array.byteLength).toString("base64");
const floats = (text) => new Float32Array(bytes(text).buffer);

const results = {
  resizes: resizes.map(({ rgb, size, to }) => base64(resized8Bit({ rgb: bytes(rgb), size }, to).rgb)),
  tests: tests.map(({ rgb, size, protocol }) => {
    const seen = resizedForTest({ rgb: bytes(rgb), size }, protocol);
    return { size: seen.size, rgb: base64(seen.rgb), grid: gridOf(seen.size, protocol) };
  }),
  maps: maps.map(({ windows, numClasses, grid, padded, size, original, protocol }) => {
    const read = windows.map(({ values, size }) => ({ values: floats(values), size }));
    const map = new LogitMap(read, numClasses, grid, padded, size, original, protocol);
    const rows = Array.from({ length: original[0] }, (_, y) => base64(map.row(y).slice()));
    const place = [original[0] - 1, original[1] >> 1];
    return { rows, place, probabilities: base64(map.probabilities(place)), ...encoded(map.classes()) };
  }),
};
console.log(JSON.stringify(results));

function encoded({ labels, confidence }) {
  return { labels: base64(labels), confidence: base64(confidence) };
}
