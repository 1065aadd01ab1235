"use strict";

const charts = JSON.parse(document.getElementById("charts").textContent);
const narrow = window.matchMedia("(max-width: 40rem)");
const systemDark = window.matchMedia("(prefers-color-scheme: dark)");
const MOST_IN_LEGEND = 9;
// Blue, orange, green, red, violet, brown, pink, slate, olive, teal: in an order that most colour-blind eyes can distinguish.
const HUES = [[211, 66], [26, 74], [140, 48], [351, 55], [262, 38], [34, 40], [321, 47], [207, 24], [57, 68], [186, 73]];
const SHADES = { light: [40, 62, 26], dark: [66, 47, 82] };

function isDark() {
  const chosen = document.documentElement.dataset.theme;
  return chosen ? chosen === "dark" : systemDark.matches;
}

function color(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

function colorway() {
  const shades = SHADES[isDark() ? "dark" : "light"];
  return shades.flatMap((light) => HUES.map(([hue, full]) => `hsl(${hue} ${full}% ${light}%)`));
}

function scales() {
  const ground = color("--raised");
  const [low, high] = isDark() ? ["#4d8fd6", "#e0823d"] : ["#3f7fc4", "#d9691e"];
  return {
    diverging: [[0, low], [0.5, ground], [1, high]],
    sequential: [[0, ground], [1, low]],
  };
}

function axis(settings) {
  const line = color("--line");
  return { gridcolor: line, zerolinecolor: color("--faint"), linecolor: line, automargin: true, ...settings };
}

function draw(element) {
  const { traces: all, layout } = charts[Number(element.dataset.chart)];
  // A narrow screen has no room for a long legend: what waits there to be switched on is left out.
  const crowded = narrow.matches && all.length > MOST_IN_LEGEND;
  const traces = crowded ? all.filter((trace) => trace.visible !== "legendonly") : all;
  const colorscales = scales();
  const data = traces.map((trace) => {
    const drawn = { ...trace };
    if (trace.type === "heatmap") {
      drawn.colorscale = colorscales[trace.colorscale];
      drawn.showscale = !narrow.matches;
      drawn.textfont = { size: narrow.matches ? 9 : 11 };
      // Numbers that would run into each other are left to the tap on a cell, and to the table.
      if (narrow.matches && trace.x.length > (trace.text ? 3 : 6)) delete drawn.texttemplate;
    }
    return drawn;
  });
  const named = traces.length;
  const cells = traces[0].type === "heatmap" ? { showgrid: false } : {};
  const legend = Boolean(layout.showlegend) && !(narrow.matches && named > MOST_IN_LEGEND);
  const below = { orientation: "h", y: -0.02, yanchor: "top", x: 0, traceorder: "normal", font: { size: narrow.matches ? 10 : 12 } };
  const titled = layout.xaxis && layout.xaxis.title && layout.xaxis.title.text;
  const room = narrow.matches ? 70 : 60;
  below.y = (titled ? -room : -32) / element.clientHeight;
  Plotly.react(
    element,
    data,
    {
      ...layout,
      xaxis: axis({ ...cells, ...layout.xaxis, ...(narrow.matches ? { tickfont: { size: 10 } } : {}) }),
      yaxis: axis({ ...cells, ...layout.yaxis, ...(narrow.matches ? { tickfont: { size: 10 } } : {}) }),
      showlegend: legend,
      legend: below,
      colorway: colorway(),
      paper_bgcolor: "rgba(0,0,0,0)",
      plot_bgcolor: "rgba(0,0,0,0)",
      font: { color: color("--ink"), family: "system-ui, sans-serif", size: 12 },
      hoverlabel: { align: "left" },
      margin: { l: 10, r: 10, t: 10, b: 10, pad: 4 },
      dragmode: false,
      bargap: 0.25,
    },
    { responsive: true, displayModeBar: false, scrollZoom: false },
  );
}

const drawn = new Set();
const seen = new IntersectionObserver(
  (entries) => {
    for (const entry of entries) {
      if (!entry.isIntersecting || drawn.has(entry.target)) continue;
      drawn.add(entry.target);
      draw(entry.target);
    }
  },
  { rootMargin: "600px" },
);
const chartElements = [...document.querySelectorAll(".chart")];
chartElements.forEach((element) => seen.observe(element));
window.addEventListener("beforeprint", () => chartElements.forEach(draw));

function redraw() {
  drawn.forEach(draw);
}
systemDark.addEventListener("change", redraw);
narrow.addEventListener("change", redraw);
document.getElementById("theme").addEventListener("click", () => {
  document.documentElement.dataset.theme = isDark() ? "light" : "dark";
  redraw();
});

function sortKey(row, column) {
  const text = row.cells[column].dataset.sort;
  if (text === undefined) return null;
  const value = Number(text);
  return text === "" || Number.isNaN(value) ? text : value;
}

function compare(a, b) {
  if (typeof a === "number" && typeof b === "number") return a - b;
  return String(a).localeCompare(String(b), undefined, { numeric: true });
}

function sortBy(table, column, heading) {
  const up = heading.getAttribute("aria-sort") !== "ascending";
  table.querySelectorAll("thead th").forEach((cell) => cell.removeAttribute("aria-sort"));
  heading.setAttribute("aria-sort", up ? "ascending" : "descending");
  const rows = [...table.tBodies[0].rows].map((row) => [sortKey(row, column), row]);
  // Cells without a value stay at the end, whichever way it goes.
  rows.sort(([a], [b]) => {
    if (a === null || b === null) return (a === null) - (b === null);
    return up ? compare(a, b) : compare(b, a);
  });
  table.tBodies[0].append(...rows.map(([, row]) => row));
}

document.querySelectorAll("table.sortable").forEach((table) => {
  table.querySelectorAll("thead th").forEach((heading, column) => {
    heading.querySelector("button").addEventListener("click", () => sortBy(table, column, heading));
  });
});

document.querySelectorAll(".reading").forEach((reading) => {
  const rows = [...reading.querySelectorAll("details.row")].map((row) => [row, row.textContent.toLowerCase()]);
  const groups = [...reading.querySelectorAll("details.group")];
  const matches = reading.querySelector(".matches");
  reading.querySelector("input").addEventListener("input", (event) => {
    const wanted = event.target.value.trim().toLowerCase();
    let count = 0;
    for (const [row, text] of rows) {
      row.hidden = wanted !== "" && !text.includes(wanted);
      if (!row.hidden) count += 1;
    }
    for (const group of groups) {
      group.hidden = ![...group.querySelectorAll("details.row")].some((row) => !row.hidden);
      group.open = wanted !== "" ? !group.hidden : group === groups[0];
    }
    matches.textContent = wanted === "" ? "" : `${count} of ${rows.length} rows`;
  });
});
