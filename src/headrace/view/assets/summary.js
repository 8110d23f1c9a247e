// The first screen: title, verdict and cards.

const STATUS_WORDS = { done: "Finished", stopped: "Stopped", failed: "Failed" };

const compared = (measured, predicted) => {
  const change = measured / predicted - 1;
  if (Math.abs(change) < 0.0005) return "as predicted";
  return `${percent(Math.abs(change))} ${change > 0 ? "more" : "less"} than predicted`;
};

const comparedPoints = (measured, predicted) => {
  const points = (measured - predicted) * 100;
  if (Math.abs(points) < 0.05) return "as predicted";
  const far = together(`${Math.abs(points).toFixed(1)} points`);
  return `${far} ${points > 0 ? "more" : "less"} than predicted`;
};

const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;

function titleOf({ model, plan: { layout, schedule } }) {
  const parts = [model, plural(layout.bounds.length - 1, "stage")];
  if (layout.chunks > 1) parts[1] += ` on ${plural(layout.pp, "rank")}`;
  if (layout.tp > 1) parts.push(`${layout.tp}-way tensor parallel`);
  if (layout.dp > 1) parts.push(plural(layout.dp, "copy").replace("copys", "copies"));
  return [...parts, schedule].join(" · ");
}

// Single steps differ by what their rows hold, so the end of a longer run is the mean of its last 20 points.
function endOf(points) {
  const tail = points.slice(points.length < 40 ? -1 : -20).map(([, value]) => value);
  return points.at(-1)[1] === null ? null : mean(tail.filter((value) => value !== null));
}

function lossWords(points) {
  const [first, last] = [points[0][1], endOf(points)];
  if (last === null) return `the loss is not finite at step ${points.at(-1)[0]}`;
  if (first === null || points.length === 1) return `the loss is ${significant(last)}`;
  return `the loss ${last <= first ? "fell" : "rose"} from ${significant(first)} to ${significant(last)}`;
}

function progressWords({ status, error, planned_steps: planned, curves: { loss } }) {
  const begun = STATUS_WORDS[status] ?? "Not finished";
  const reason = error ? `: ${error.replace(/[.\s]+$/, "")}` : "";
  if (!loss.length) return `${begun}${reason}; no step is recorded.`;
  const done = loss.at(-1)[0];
  const steps = planned && planned !== done ? `${done} of ${plural(planned, "step")}` : plural(done, "step");
  return `${begun} after ${steps}${reason}; ${lossWords(loss)}.`;
}

function paceWords({ measured, plan: { prediction } }) {
  if (measured.step_s == null) return prediction ? `A step should take ${seconds(prediction.step_s)}.` : "";
  const takes = `A step takes ${seconds(measured.step_s)}`;
  if (!prediction) return `${takes}.`;
  const pace = `${takes}, ${compared(measured.step_s, prediction.step_s)}`;
  if (measured.idle_share == null) return `${pace}.`;
  const idle = comparedPoints(measured.idle_share, prediction.idle_share);
  return `${pace}; ranks idle for ${percent(measured.idle_share)} of it, ${idle}.`;
}

const partBytes = (prediction, part, rank) => prediction[`${part}_bytes`][rank];
const totalBytes = (prediction, rank) => MEMORY_PARTS.reduce((sum, part) => sum + partBytes(prediction, part, rank), 0);
const predictedBytes = (prediction) => prediction.parameter_bytes.map((_, rank) => totalBytes(prediction, rank));

function cardsOf({ plan: { prediction }, measured, curves: { loss, validation_loss: heldOut } }) {
  const cards = [];
  const add = (label, value, aside) => cards.push({ label, value, aside });
  const pair = (label, format, is, should) => {
    if (is != null) add(label, format(is), should == null ? "" : `predicted ${format(should)}`);
    else if (should != null) add(label, format(should), "predicted");
  };
  if (loss.length) {
    const value = endOf(loss);
    const where = loss.length < 40 ? `at step ${loss.at(-1)[0]}` : "mean of the last 20 steps";
    add("Final loss", value === null ? "not finite" : significant(value), where);
  }
  if (heldOut.length) {
    const [step, value] = heldOut.at(-1);
    add("Validation loss", value === null ? "not finite" : significant(value), `at step ${step}`);
  }
  pair("Step time", seconds, measured.step_s, prediction?.step_s);
  pair("Idle share", percent, measured.idle_share, prediction?.idle_share);
  pair("Throughput", rate, measured.tokens_per_s, prediction?.tokens_per_s);
  const top = (values) => values && Math.max(...values);
  pair("Fullest rank", bytes, top(measured.peak_memory_bytes), top(prediction && predictedBytes(prediction)));
  return cards;
}

function showSummary(data) {
  const tone = data.status in STATUS_WORDS ? data.status : "running";
  const words = STATUS_WORDS[data.status] ?? "Not finished";
  byId("status").append(html("span", { class: "status", style: `--tone: var(--${tone})` }, words));
  byId("run").textContent = `run ${data.run}`;
  byId("title").textContent = titleOf(data);
  byId("verdict").textContent = `${progressWords(data)} ${paceWords(data)}`;
  for (const { label, value, aside } of cardsOf(data)) {
    const [number, ...unit] = value.split(NBSP);
    const figure = html("dd", { class: "value" }, number, ...unit.map((word) => html("small", {}, NBSP + word)));
    const body = [figure, html("dd", { class: "aside" }, aside)];
    byId("cards").append(html("div", {}, html("dt", {}, label), ...body));
  }
}
