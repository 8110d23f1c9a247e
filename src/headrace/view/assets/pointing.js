// Pointer, wheel, keys and buttons of the timelines.

const MOST_ZOOM = 4000; // the narrowest view is this part of the step
const REACH = 6; // px by which a pointer may miss a span

function addPointing(view, buttons) {
  const { canvas } = view;
  const moves = {
    zoomIn: () => zoom(view, 2), zoomOut: () => zoom(view, 0.5), all: () => show(view, 0, view.total),
    left: () => pan(view, -0.25), right: () => pan(view, 0.25),
  };
  for (const [label, text, move] of [
    ["Earlier", "‹", moves.left], ["Later", "›", moves.right], ["Zoom out", "−", moves.zoomOut],
    ["Zoom in", "+", moves.zoomIn], ["Whole step", "All", moves.all],
  ]) {
    const button = html("button", { type: "button", "aria-label": label }, text);
    button.addEventListener("click", move);
    buttons.append(button);
  }
  canvas.addEventListener("keydown", (event) => onKey(view, moves, event));
  canvas.addEventListener("blur", () => choose(view, null));
  canvas.addEventListener("wheel", (event) => onWheel(view, event), { passive: false });
  addDragging(view);
}

function show(view, from, to) {
  const width = Math.min(Math.max(to - from, view.total / MOST_ZOOM), view.total);
  view.from = Math.min(Math.max(from, 0), view.total - width);
  view.to = view.from + width;
  view.draw();
  if (view.chosen) placeTip(view, timeToX(view, (view.chosen.start + view.chosen.end) / 2));
}

function pan(view, share) {
  const shift = share * (view.to - view.from);
  show(view, view.from + shift, view.to + shift);
}

// The time under `x` stays where it is.
function zoom(view, factor, x = (GUTTER + view.width - EDGE) / 2) {
  const fixed = xToTime(view, x);
  const width = Math.min(Math.max((view.to - view.from) / factor, view.total / MOST_ZOOM), view.total);
  const from = fixed - ((fixed - view.from) / (view.to - view.from)) * width;
  show(view, from, from + width);
}

function onWheel(view, event) {
  const sideways = event.shiftKey ? event.deltaY || event.deltaX : event.deltaX;
  if (event.ctrlKey || event.metaKey) zoom(view, Math.exp(-event.deltaY / 200), event.offsetX);
  else if (Math.abs(sideways) > Math.abs(event.shiftKey ? 0 : event.deltaY)) pan(view, sideways / view.width);
  else return; // the page scrolls
  event.preventDefault();
}

function onKey(view, moves, event) {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const keys = {
    "+": moves.zoomIn, "=": moves.zoomIn, "-": moves.zoomOut, 0: moves.all, Escape: () => choose(view, null),
    ArrowLeft: () => step(view, -1), ArrowRight: () => step(view, 1),
    ArrowUp: () => changeRow(view, -1), ArrowDown: () => changeRow(view, 1),
  };
  if (!keys[event.key]) return;
  event.preventDefault();
  keys[event.key]();
}

const rowsWithSpans = (view) => view.panels.flatMap((panel) => panel.rows).filter((row) => row.length);
const rowOf = (view, span) => view.panels.find(({ name }) => name === span.panel).rows[span.rank];

function step(view, by) {
  const row = view.chosen ? rowOf(view, view.chosen) : rowsWithSpans(view)[0];
  const index = view.chosen ? view.chosen.index + by : firstAfter(row ?? [], view.from);
  if (row?.[index]) reveal(view, row[index]);
}

// To the span of the neighbouring row that is nearest in time; rows of both panels are in one order.
function changeRow(view, by) {
  if (!view.chosen) { step(view, 0); return; }
  const rows = rowsWithSpans(view);
  const row = rows[rows.indexOf(rowOf(view, view.chosen)) + by];
  if (row) reveal(view, nearest(row, (view.chosen.start + view.chosen.end) / 2));
}

function nearest(row, time) {
  const index = Math.min(firstAfter(row, time), row.length - 1);
  const gap = (span) => Math.max(span.start - time, time - span.end, 0);
  return [row[index - 1], row[index]].filter(Boolean).reduce((a, b) => (gap(b) <= gap(a) ? b : a));
}

function reveal(view, span) {
  const [middle, width] = [(span.start + span.end) / 2, view.to - view.from];
  if (middle < view.from || middle > view.to) show(view, middle - width / 2, middle + width / 2);
  choose(view, span, timeToX(view, middle));
}

// The span under a point of the canvas, or the nearest in its row within REACH.
function spanAt(view, x, y) {
  for (const panel of view.panels) {
    const row = panel.rows[Math.floor((y - panel.top) / panel.rowHeight)];
    if (y < panel.top || !row?.length) continue;
    const span = nearest(row, xToTime(view, x));
    const misses = Math.max(timeToX(view, span.start) - x, x - timeToX(view, span.end));
    return misses <= REACH ? span : null;
  }
  return null;
}

function choose(view, span, x = 0) {
  const changed = view.chosen !== span;
  view.chosen = span;
  if (changed) {
    view.draw();
    view.tip.replaceChildren(...(span ? tipOf(view, span) : []));
  }
  if (span) placeTip(view, x);
}

function tipOf(view, span) {
  const found = view.panels.map(({ byOp }) => byOp.get(opKey(span))).filter(Boolean);
  const lines = found.map(({ panel, start, end }) => [
    PANEL_WORDS[panel], ` starts at ${seconds(start)}, `, `takes ${seconds(end - start)}`,
  ]);
  return [html("b", {}, opName(span)), ...lines.flat().map((words) => html("span", {}, words))];
}

// On the side of the chosen row that is away from the other timeline, so that the same op there stays in sight.
function placeTip({ tip, chosen, panels, width }, x) {
  const panel = panels.find(({ name }) => name === chosen.panel);
  const row = panel.top + chosen.rank * panel.rowHeight;
  const first = panel === panels[0] && panels.length > 1;
  const top = first ? row - tip.offsetHeight - 8 : row + panel.rowHeight + 8;
  const left = Math.min(Math.max(x - tip.offsetWidth / 2, 0), width - tip.offsetWidth);
  tip.style.transform = `translate(${Math.round(Math.max(left, 0))}px, ${Math.round(top)}px)`;
}

// One pointer points or drags, two pinch.
function addDragging(view) {
  const { canvas } = view;
  const down = new Map();
  let moved = 0;
  const at = (event) => ({ x: event.offsetX, y: event.offsetY });
  const spread = () => {
    const [a, b] = [...down.values()];
    return { width: Math.abs(a.x - b.x) || 1, middle: (a.x + b.x) / 2 };
  };
  const point = (event) => choose(view, spanAt(view, event.offsetX, event.offsetY), event.offsetX);

  canvas.addEventListener("pointerdown", (event) => {
    down.set(event.pointerId, at(event));
    canvas.setPointerCapture(event.pointerId);
    moved = 0;
  });
  canvas.addEventListener("pointermove", (event) => {
    if (!down.has(event.pointerId)) { point(event); return; }
    const before = down.size === 2 ? spread() : down.get(event.pointerId);
    down.set(event.pointerId, at(event));
    if (down.size === 2) {
      moved = Infinity; // lifting a finger is not a tap
      const after = spread();
      zoom(view, after.width / before.width, before.middle);
      pan(view, (before.middle - after.middle) / (view.width - GUTTER - EDGE));
    } else {
      moved += Math.abs(event.offsetX - before.x);
      if (moved > 4) pan(view, (before.x - event.offsetX) / (view.width - GUTTER - EDGE));
    }
  });
  canvas.addEventListener("pointerup", (event) => {
    down.delete(event.pointerId);
    if (moved <= 4) point(event);
  });
  canvas.addEventListener("pointercancel", (event) => down.delete(event.pointerId));
  canvas.addEventListener("pointerleave", (event) => {
    if (event.pointerType === "mouse") choose(view, null);
  });
}
