// Memory of each pipeline rank: the predicted parts as one bar, the measured peak as a thin one on the same scale.

const MEMORY_PARTS = ["parameter", "gradient", "optimizer", "activation"];
const PART_WORDS = {
  parameter: "parameters", gradient: "gradients", optimizer: "optimizer", activation: "activations",
};
const PEAK_HINT = "On a CPU the measured peak is the whole process, with Python and its libraries; "
  + "on a GPU it is what the device held.";

const swatch = (tone, text) => html("li", {}, html("i", { style: `--tone: var(--${tone})` }), text);

function showMemory(host, prediction, peaks) {
  if (!prediction && !peaks) { host.append(note("Nothing was predicted and no peak is recorded yet.")); return; }
  const totals = prediction ? predictedBytes(prediction) : [];
  const ranks = Array.from({ length: Math.max(totals.length, peaks?.length ?? 0) }, (_, rank) => ({
    rank,
    parts: prediction ? MEMORY_PARTS.map((part) => ({ part, size: partBytes(prediction, part, rank) })) : [],
    total: totals[rank],
    peak: peaks?.[rank],
  }));
  const scale = Math.max(...ranks.map(({ total, peak }) => Math.max(total ?? 0, peak ?? 0))) || 1;
  const words = prediction ? MEMORY_PARTS.map((part) => swatch(PART_WORDS[part], PART_WORDS[part])) : [];
  host.append(html("ul", { class: "legend" }, ...words, ...(peaks ? [swatch("measured", "measured peak")] : [])));
  host.append(html("div", { class: "bars" }, ...ranks.map((row) => memoryRow(row, scale))));
  if (!peaks) host.append(note("The measured peak is not recorded yet (metrics.jsonl)."));
  if (prediction) host.append(memoryTable(ranks));
  if (peaks) host.append(html("p", { class: "hint" }, PEAK_HINT));
}

function memoryRow({ rank, parts, total, peak }, scale) {
  const piece = (tone, size) => html("i", { style: `--tone: var(--${tone}); width: ${(100 * size) / scale}%` });
  const figures = [total != null ? `${bytes(total)} predicted` : null, peak != null ? `${bytes(peak)} measured` : null];
  const row = html("div", {}, html("p", {}, html("b", {}, `rank ${rank}`), figures.filter(Boolean).join(" · ")));
  const pieces = parts.map(({ part, size }) => piece(PART_WORDS[part], size));
  if (pieces.length) row.append(html("div", { class: "bar" }, ...pieces));
  if (peak != null) row.append(html("div", { class: "bar thin" }, piece("measured", peak)));
  return row;
}

function memoryTable(ranks) {
  const head = ["rank", ...MEMORY_PARTS.map((part) => PART_WORDS[part]), "predicted", "measured"];
  const rows = ranks.map(({ rank, parts, total, peak }) => [
    `${rank}`, ...parts.map(({ size }) => bytes(size)), bytes(total), peak == null ? "–" : bytes(peak),
  ]);
  return html("details", {}, html("summary", {}, "All figures"), table(head, rows));
}

function table(head, rows, style = "") {
  const line = (cell, values) => html("tr", {}, ...values.map((value) => html(cell, {}, value)));
  const body = html("tbody", {}, ...rows.map((row) => line("td", row)));
  const whole = html("table", { class: style }, html("thead", {}, line("th", head)), body);
  return html("div", { class: "scroll", tabindex: 0 }, whole);
}
