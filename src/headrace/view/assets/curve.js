// A curve over steps, with a readout that follows pointer and arrow keys.

const MARGIN = { top: 10, right: 12, bottom: 22, left: 42 };

// points: [step, value or null]; reference: a value that is drawn as a dashed line; beside: points of a second curve,
// which is of data that was held out.
function showCurve(host, points, { format, fromZero = false, reference = null, beside = [] }) {
  if (points.every(([, value]) => value === null)) {
    host.append(note(points.length ? "No step has a finite value." : "No step is recorded yet (metrics.jsonl)."));
    return;
  }
  const readout = html("p", { class: "readout", "aria-live": "polite" });
  const picture = svg("svg", { class: "curve", tabindex: 0, role: "img" });
  host.append(readout, picture);
  const state = { chosen: null, scale: null };

  const say = () => {
    const [step, value] = state.chosen ?? points.at(-1);
    const said = (one) => (one === null ? "not finite" : format(one));
    const predicted = reference === null ? "" : ` · predicted ${format(reference)}`;
    const latest = beside.findLast(([when]) => when <= step);
    const heldOut = latest ? ` · held out ${said(latest[1])} at step ${latest[0]}` : "";
    readout.textContent = `step ${step} · ${said(value)}${predicted}${heldOut}`;
    picture.setAttribute("aria-label", `${readout.textContent}. Arrow keys move along the curve.`);
  };
  const draw = () => {
    say();
    state.scale = scaleOf(picture, points, { fromZero, reference, beside });
    const { chosen, scale } = state;
    const marks = cursor(scale, chosen ?? points.at(-1), chosen);
    picture.replaceChildren(...axes(scale), ...lines(scale, points, reference), ...second(scale, beside), ...marks);
  };
  const choose = (point) => { state.chosen = point; draw(); };
  picture.addEventListener("pointermove", (event) => {
    const step = state.scale.stepAt(event.clientX - picture.getBoundingClientRect().left);
    choose(points.reduce((best, point) => (Math.abs(point[0] - step) < Math.abs(best[0] - step) ? point : best)));
  });
  picture.addEventListener("pointerleave", () => choose(null));
  picture.addEventListener("blur", () => choose(null));
  picture.addEventListener("keydown", (event) => {
    const move = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!move) return;
    event.preventDefault();
    const index = points.indexOf(state.chosen ?? points.at(-1)) + move;
    choose(points[Math.min(Math.max(index, 0), points.length - 1)]);
  });
  new ResizeObserver(draw).observe(host);
}

function scaleOf(picture, points, { fromZero, reference, beside }) {
  const { clientWidth: width, clientHeight: height } = picture;
  const values = [...points, ...beside].map(([, value]) => value).concat(reference).filter((value) => value !== null);
  let low = fromZero ? 0 : values.reduce((a, b) => Math.min(a, b));
  let high = values.reduce((a, b) => Math.max(a, b));
  const room = (high - low || Math.abs(high) || 1) * 0.06;
  [low, high] = [fromZero ? 0 : low - room, high + room];
  const [first, last] = [points[0][0], points.at(-1)[0]];
  const across = (width - MARGIN.left - MARGIN.right) / (last - first || 1);
  const up = (height - MARGIN.top - MARGIN.bottom) / (high - low);
  return {
    width, height, low, high, first, last,
    x: (step) => MARGIN.left + (step - first) * across,
    y: (value) => height - MARGIN.bottom - (value - low) * up,
    stepAt: (x) => first + (x - MARGIN.left) / across,
  };
}

function axes({ width, height, low, high, first, last, x, y }) {
  const levels = ticks(low, high, 4).flatMap((value) => [
    svg("line", { class: "rule", x1: MARGIN.left, x2: width - MARGIN.right, y1: y(value), y2: y(value) }),
    svg("text", { x: MARGIN.left - 8, y: y(value) + 4, "text-anchor": "end" }, tickLabel(value)),
  ]);
  const steps = ticks(first, last, Math.max(2, width / 70)).filter(Number.isInteger);
  const labels = steps.map((step) => svg("text", { x: x(step), y: height - 4, "text-anchor": "middle" }, `${step}`));
  return [...levels, ...labels];
}

const tickLabel = (value) => (Math.abs(value) >= 1000 ? `${+(value / 1000).toFixed(2)}k` : `${+value.toPrecision(6)}`);

// A value that is not finite breaks the line.
function pathOf({ x, y }, points) {
  let pen = "M";
  return points.map(([step, value]) => {
    if (value === null) { pen = "M"; return ""; }
    const stroke = `${pen}${x(step).toFixed(1)} ${y(value).toFixed(1)}`;
    pen = "L";
    return stroke;
  }).join("");
}

function second(scale, points) {
  if (!points.length) return [];
  const finite = points.filter(([, value]) => value !== null);
  const dots = finite.map(([step, value]) => (
    svg("circle", { class: "beside-dot", cx: scale.x(step), cy: scale.y(value), r: 2.5 })
  ));
  return [svg("path", { class: "path beside", d: pathOf(scale, points) }), ...dots];
}

function lines(scale, points, reference) {
  const { width, y } = scale;
  const drawn = [svg("path", { class: "path", d: pathOf(scale, points) })];
  if (reference !== null) {
    const level = { y1: y(reference), y2: y(reference) };
    drawn.push(svg("line", { class: "reference", x1: MARGIN.left, x2: width - MARGIN.right, ...level }));
  }
  return drawn;
}

function cursor({ height, x, y }, [step, value], chosen) {
  const marks = [];
  const upright = { x1: x(step), x2: x(step), y1: MARGIN.top, y2: height - MARGIN.bottom };
  if (chosen) marks.push(svg("line", { class: "cursor", ...upright }));
  if (value !== null) marks.push(svg("circle", { class: "dot", cx: x(step), cy: y(value), r: 4.5 }));
  return marks;
}
