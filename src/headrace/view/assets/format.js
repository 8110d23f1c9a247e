// Numbers as words, and elements in one call.

const significant = (value, digits = 3) => {
  const places = Math.max(0, digits - 1 - Math.floor(Math.log10(Math.abs(value) || 1)));
  return value.toFixed(Math.min(places, 6));
};

const scaled = (value, units, step) => {
  let index = 0;
  while (index < units.length - 1 && Math.abs(value) >= step * 0.9995) { value /= step; index += 1; }
  return `${significant(value)} ${units[index]}`.trim();
};

const NBSP = "\u00a0"; // keeps a number and its unit on one line
const together = (text) => text.replaceAll(" ", NBSP);

const seconds = (value) => (value === 0 ? "0" : together(scaled(value * 1e6, ["µs", "ms", "s"], 1000)));
const bytes = (value) => together(scaled(value, ["B", "kB", "MB", "GB", "TB"], 1000));
const rate = (value) => together(`${scaled(value, ["", "k", "M", "G"], 1000).replace(" ", "")} tokens/s`);
const percent = (share) => `${(share * 100).toFixed(1)}%`;
const plural = (number, noun) => together(`${number} ${noun}${number === 1 ? "" : "s"}`);

const build = (create) => (name, attributes = {}, ...children) => {
  const node = create(name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  node.append(...children);
  return node;
};
const html = build((name) => document.createElement(name));
const svg = build((name) => document.createElementNS("http://www.w3.org/2000/svg", name));
const byId = (id) => document.getElementById(id);
const note = (text) => html("p", { class: "note" }, text);
const cssColour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();

// Round values that divide [low, high] into about `wanted` parts.
function ticks(low, high, wanted) {
  const rough = (high - low) / wanted || 1;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = power * [1, 2, 5, 10].find((factor) => factor * power >= rough * 0.999);
  const first = Math.ceil(low / step - 1e-9);
  const last = Math.floor(high / step + 1e-9);
  return Array.from({ length: last - first + 1 }, (_, index) => (first + index) * step);
}
