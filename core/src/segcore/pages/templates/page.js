"use strict";

// Charts: colors named var(--x) become those of the page, again whenever it turns light or dark.
function withColors(value, style) {
  if (typeof value === "string") {
    const name = /^var\((--[\w-]+)\)$/.exec(value);
    return name ? style.getPropertyValue(name[1]).trim() : value;
  }
  if (Array.isArray(value)) return value.map((item) => withColors(item, style));
  if (value === null || typeof value !== "object") return value;
  return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, withColors(item, style)]));
}

function drawCharts() {
  const style = getComputedStyle(document.documentElement);
  const isTouched = matchMedia("(pointer: coarse)").matches; // a finger on a chart scrolls the page
  const config = { responsive: true, displaylogo: false, showSendToCloud: false, displayModeBar: isTouched ? false : "hover" };
  for (const chart of document.querySelectorAll(".chart")) {
    const figure = withColors(JSON.parse(chart.querySelector("script").textContent), style);
    if (isTouched) figure.layout.dragmode = false;
    Plotly.react(chart.querySelector(".plot"), figure.data, figure.layout, config);
  }
}

drawCharts();
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawCharts);

// Tables: a click on a heading sorts, another one turns the order; missing values stay last.
function sortBy(heading) {
  const column = heading.cellIndex, body = heading.closest("table").tBodies[0];
  const isNumber = heading.classList.contains("number");
  // numbers start with the largest, names with the first
  const order = heading.ariaSort === null ? (isNumber ? -1 : 1) : heading.ariaSort === "ascending" ? -1 : 1;
  for (const other of heading.parentElement.cells) other.ariaSort = null;
  heading.ariaSort = order > 0 ? "ascending" : "descending";
  const keyed = [...body.rows].map((row) => {
    const cell = row.cells[column];
    return [isNumber ? cell.dataset.value : cell.textContent.trim(), row];
  });
  keyed.sort(([a], [b]) => {
    if (a === "" || b === "") return (a === "") - (b === "");
    return order * (isNumber ? a - b : a.localeCompare(b, undefined, { numeric: true }));
  });
  body.append(...keyed.map(([, row]) => row));
}

for (const button of document.querySelectorAll("th button")) {
  button.addEventListener("click", () => sortBy(button.parentElement));
}

// A field above a long table leaves the rows that hold its text.
for (const field of document.querySelectorAll(".filter")) {
  field.addEventListener("input", () => {
    const wanted = field.value.trim().toLowerCase();
    for (const row of field.closest(".table").querySelector("tbody").rows) {
      row.hidden = !row.textContent.toLowerCase().includes(wanted);
    }
  });
}

// Linked charts: a click on a point marks its name everywhere, another one on it leaves all alike again.
let chosen = null;
function choose(name) {
  chosen = chosen === name ? null : name;
  for (const plot of document.querySelectorAll(".chart[data-linked] .plot")) {
    Plotly.restyle(plot, { opacity: plot.data.map((trace) => (chosen === null || trace.name === chosen ? 1 : 0.2)) });
  }
  for (const row of document.querySelectorAll("tbody tr")) {
    const isMarked = chosen !== null && [...row.cells].some((cell) => cell.textContent.trim() === chosen);
    row.classList.toggle("chosen", isMarked);
  }
}

for (const plot of document.querySelectorAll(".chart[data-linked] .plot")) {
  plot.on("plotly_click", (event) => choose(event.points[0].data.name));
}

// Galleries: the slider lays the maps over their images.
for (const slider of document.querySelectorAll(".slider input")) {
  slider.addEventListener("input", () => {
    slider.closest(".gallery").style.setProperty("--opacity", slider.value / 100);
  });
}
