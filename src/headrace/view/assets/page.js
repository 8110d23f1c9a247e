// Fills the page from its own data.

const data = JSON.parse(byId("data").textContent);
const { plan, measured, curves } = data;

showSummary(data);
showCurve(byId("loss"), curves.loss, { format: significant, beside: curves.validation_loss });
showCurve(byId("throughput"), curves.tokens_per_s, {
  format: rate, fromZero: true, reference: plan.prediction?.tokens_per_s ?? null,
});
showMemory(byId("memory"), plan.prediction, measured.peak_memory_bytes);
showTimelines(byId("timeline"), data.timelines);
byId("reasons").append(...plan.reasons.map((reason) => html("li", {}, reason)));
if (!plan.reasons.length) byId("reasons").replaceWith(note("The plan gives no reasons."));
const again = data.stages.some(({ recompute }) => recompute);
byId("stages").append(
  table(
    ["stage", "rank", "layers", ...(again ? ["recomputed"] : [])],
    data.stages.map(({ stage, rank, layers, recompute }) => [stage, rank, layers, ...(again ? [recompute] : [])]),
    "words",
  ),
  html("p", { class: "hint" }, layoutWords(plan)),
);
byId("config").textContent = data.config;

function layoutWords({ layout, microbatches, microbatch_size: rows, costs_source: source }) {
  const mesh = `dp ${layout.dp} × pp ${layout.pp} × tp ${layout.tp}`;
  const work = `${plural(microbatches, "micro-batch").replace("batchs", "batches")} of ${plural(rows, "row")}`;
  return `${mesh}; ${work}; costs ${source}.`;
}
