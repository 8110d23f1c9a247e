// Predicted and measured timeline above each other on one time axis, on one canvas. Times are in seconds.

const OP_WORDS = { F: "forward", B: "backward", I: "gradient of the input", W: "gradient of the weights" };
const PANEL_WORDS = { predicted: "Predicted", measured: "Measured" };
const FILES = { predicted: "predicted_timeline.json", measured: "timeline.json" };
const GUTTER = 30; // px left of the rows, for rank numbers
const EDGE = 10; // px right of them, for the last tick's label
const HEADING = 28; // px above a panel's rows
const LABEL = 10.5; // px, the size of a micro-batch's number
const FAINTEST = 0.7; // how far a rank's last stage may fade into the page
const AXIS = 26; // px below the last row

const HINT = "Each row is a rank; the number in an op is its micro-batch. Point at an op or tap it to read it. "
  + "Drag to move; pinch, Ctrl + wheel or the buttons zoom.";
const KEYS = "Arrow keys move between ops and ranks, plus and minus zoom, 0 shows the whole step.";

const KINDS = Object.keys(OP_WORDS);
const opName = ({ rank, kind, stage, microbatch }) =>
  `${kind} ${OP_WORDS[kind]} · micro-batch ${microbatch} · stage ${stage} on rank ${rank}`;
const opKey = ({ kind, stage, microbatch }) => `${kind}/${stage}/${microbatch}`;

// Rows of spans in time order, and each span by its op.
function panelOf(name, timeline) {
  const rows = Array.from({ length: timeline?.num_ranks ?? 0 }, () => []);
  for (const [rank, kind, stage, microbatch, start, end] of timeline?.spans ?? []) {
    rows[rank].push({ panel: name, rank, kind, stage, microbatch, start, end });
  }
  for (const row of rows) {
    row.sort((a, b) => a.start - b.start);
    const stages = [...new Set(row.map((span) => span.stage))].sort((a, b) => a - b);
    const faint = new Map(stages.map((stage, chunk) => [stage, (FAINTEST * chunk) / stages.length]));
    row.forEach((span, index) => Object.assign(span, { index, faint: faint.get(span.stage) }));
  }
  const byOp = new Map(rows.flat().map((span) => [opKey(span), span]));
  return { name, timeline, rows, byOp, top: 0, rowHeight: 0 };
}

function showTimelines(host, timelines) {
  const names = Object.keys(PANEL_WORDS);
  const panels = names.filter((name) => timelines[name]).map((name) => panelOf(name, timelines[name]));
  const absent = names.filter((name) => !timelines[name]);
  const notes = absent.map((name) => note(`The ${name} timeline is not in the run folder (${FILES[name]}).`));
  if (!panels.length) { host.append(...notes); return; }

  const some = (test) => panels.some(({ rows }) => rows.some((row) => row.some(test)));
  const kinds = KINDS.filter((kind) => some((span) => span.kind === kind));
  const legend = kinds.map((kind) => swatch(kind, `${kind} ${OP_WORDS[kind]}`));
  if (some((span) => span.faint > 0)) legend.push(html("li", {}, "fainter: the rank's later stages"));
  const canvas = html("canvas", {
    tabindex: 0, role: "application", "aria-roledescription": "timeline",
    "aria-label": `Timeline of one step. ${KEYS}`,
  });
  const tip = html("div", { class: "tip", role: "status" });
  const total = Math.max(...panels.map(({ timeline }) => timeline.step_s), 1e-9);
  const view = { canvas, tip, panels, total, from: 0, to: total, width: 0, chosen: null, draw: () => drawView(view) };
  const buttons = html("div", { class: "buttons", role: "group", "aria-label": "Zoom" });
  host.append(
    html("div", { class: "tools" }, html("ul", { class: "legend" }, ...legend), buttons),
    html("div", { class: "stage" }, tip, canvas), ...notes,
    html("p", { class: "hint" }, HINT),
  );
  addPointing(view, buttons);
  new ResizeObserver(view.draw).observe(canvas.parentElement);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", view.draw);
}

const timeToX = (view, time) => GUTTER + ((time - view.from) / (view.to - view.from)) * (view.width - GUTTER - EDGE);
const xToTime = (view, x) => view.from + ((x - GUTTER) / (view.width - GUTTER - EDGE)) * (view.to - view.from);

const clippedX = (view, time) => Math.min(Math.max(timeToX(view, time), GUTTER), view.width - EDGE);
const barHeight = ({ rowHeight }) => rowHeight - (rowHeight > 12 ? 3 : 1);

// Gives each panel its place; returns the height of all of it.
function placePanels(panels) {
  let top = 0;
  for (const panel of panels) {
    panel.top = top + HEADING;
    panel.rowHeight = Math.min(Math.max(Math.floor(420 / panel.rows.length), 8), 30);
    top = panel.top + panel.rows.length * panel.rowHeight + 12;
  }
  return top + AXIS - 6;
}

function drawView(view) {
  const { canvas, panels } = view;
  const [width, height, density] = [canvas.parentElement.clientWidth, placePanels(panels), devicePixelRatio];
  view.width = width;
  canvas.style.height = `${height}px`;
  [canvas.width, canvas.height] = [Math.round(width * density), Math.round(height * density)];
  const pen = canvas.getContext("2d");
  pen.scale(density, density);
  const brush = brushOf(pen);
  drawAxis(view, brush, height);
  for (const panel of panels) {
    drawHeading(panel, brush);
    panel.rows.forEach((row, rank) => drawRow(view, panel, brush, row, rank));
    drawChosen(view, panel, brush);
  }
}

function brushOf(pen) {
  const table = (names, value) => Object.fromEntries(names.map((name) => [name, value(name)]));
  const colours = table(["ink", "muted", "line", "track", "surface", ...KINDS], cssColour);
  const family = getComputedStyle(document.body).fontFamily;
  const font = (size, weight = 400) => `${weight} ${size}px ${family}`;
  pen.font = font(LABEL);
  return { pen, colours, tones: new Map(), font, digit: pen.measureText("0").width };
}

// Colour of an op and of the number inside it.
function toneOf({ colours, tones }, { kind, faint }) {
  const key = `${kind} ${faint}`;
  if (!tones.has(key)) {
    const channels = [colours[kind], colours.surface].map(rgb);
    const fill = channels[0].map((value, at) => Math.round(value + faint * (channels[1][at] - value)));
    tones.set(key, { fill: `rgb(${fill.join(" ")})`, label: readable(fill) });
  }
  return tones.get(key);
}

function drawAxis(view, { pen, colours, font }, height) {
  const times = ticks(view.from, view.to, Math.max(2, (view.width - GUTTER) / 80));
  pen.font = font(11);
  pen.textAlign = "center";
  for (const time of times) {
    const x = Math.round(timeToX(view, time)) + 0.5;
    pen.fillStyle = colours.line;
    for (const { top, rows, rowHeight } of view.panels) pen.fillRect(x - 0.5, top - 3, 1, rows.length * rowHeight + 6);
    pen.fillStyle = colours.muted;
    const label = time === 0 ? "0" : axisLabel(time, view.to);
    const room = pen.measureText(label).width / 2 + 1;
    pen.fillText(label, Math.min(x, view.width - room), height - 6);
  }
}

// All ticks of an axis share the unit of its end.
function axisLabel(time, end) {
  const [unit, size] = end >= 1 ? ["s", 1] : end >= 1e-3 ? ["ms", 1e-3] : ["µs", 1e-6];
  return `${+(time / size).toPrecision(7)} ${unit}`;
}

function drawHeading({ name, timeline, top }, { pen, colours, font }) {
  pen.textAlign = "left";
  pen.font = font(13, 600);
  pen.fillStyle = colours.ink;
  pen.fillText(PANEL_WORDS[name], 0, top - 10);
  const after = pen.measureText(PANEL_WORDS[name]).width + 10;
  pen.font = font(13);
  pen.fillStyle = colours.muted;
  pen.fillText(`${seconds(timeline.step_s)}, idle ${percent(timeline.idle_share)}`, after, top - 10);
}

function drawRow(view, panel, brush, row, rank) {
  const { pen, colours, font } = brush;
  const [y, height] = [panel.top + rank * panel.rowHeight, barHeight(panel)];
  const labelled = Math.ceil(13 / panel.rowHeight);
  if (rank % labelled === 0) {
    pen.font = font(11);
    pen.textAlign = "right";
    pen.fillStyle = colours.muted;
    pen.fillText(`${rank}`, GUTTER - 8, y + Math.max(height / 2 + 4, 8));
  }
  const clip = (time) => clippedX(view, time);
  pen.fillStyle = colours.track;
  pen.fillRect(clip(0), y, clip(panel.timeline.step_s) - clip(0), height);
  pen.font = font(LABEL);
  pen.textAlign = "center";
  let drawn = GUTTER;
  for (let index = firstAfter(row, view.from); index < row.length && row[index].start < view.to; index += 1) {
    const span = row[index];
    const [left, right] = [clip(span.start), clip(span.end)];
    if (right - left < 1 && right <= drawn) continue; // its pixel is taken
    drawn = left + drawSpan(brush, span, left, y, right - left, height);
  }
}

// Returns the width that it took.
function drawSpan(brush, span, left, y, width, height) {
  const taken = Math.max(width > 4 ? width - 1 : width, 1);
  const { pen, digit } = brush;
  const tone = toneOf(brush, span);
  pen.fillStyle = tone.fill;
  pen.fillRect(left, y, taken, height);
  const label = `${span.microbatch}`;
  if (height >= 14 && taken >= digit * label.length + 2) {
    pen.fillStyle = tone.label;
    pen.fillText(label, left + taken / 2, y + height / 2 + 4);
  }
  return taken;
}

function drawChosen(view, panel, { pen, colours }) {
  const span = view.chosen && panel.byOp.get(opKey(view.chosen));
  if (!span || span.end < view.from || span.start > view.to) return;
  const [left, right] = [clippedX(view, span.start), clippedX(view, span.end)];
  const height = barHeight(panel);
  const box = [left - 1, panel.top + span.rank * panel.rowHeight - 1, Math.max(right - left, 2) + 1, height + 2];
  pen.lineWidth = 4;
  pen.strokeStyle = colours.surface;
  pen.strokeRect(...box);
  pen.lineWidth = 2;
  pen.strokeStyle = colours.ink;
  pen.strokeRect(...box);
}

// Index of the first span that ends after `time`; a rank's spans follow each other.
function firstAfter(row, time) {
  let [low, high] = [0, row.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (row[middle].end > time) high = middle; else low = middle + 1;
  }
  return low;
}

const rgb = (colour) => [1, 3, 5].map((at) => parseInt(colour.slice(at, at + 2), 16));

// Dark or white, whichever stands out more (WCAG 2 relative luminance).
function readable(channels) {
  const [red, green, blue] = channels.map((value) => (value / 255) ** 2.2);
  return 0.2126 * red + 0.7152 * green + 0.0722 * blue > 0.18 ? "#15181a" : "#ffffff";
}
