// Elements and figures. All text goes in as text: nothing here reads markup.

const SVG = "http://www.w3.org/2000/svg";

function filled(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    element.setAttribute(name, value === true ? "" : String(value));
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

export const el = (name, attributes = {}, ...children) => filled(document.createElement(name), attributes, children);
export const svg = (name, attributes = {}, ...children) => filled(document.createElementNS(SVG, name), attributes, children);
export const byId = (id) => document.getElementById(id);

/** Places an element within its track, by shares of its width. */
export function spread(element, start, end) {
  element.style.left = `${100 * start}%`;
  element.style.width = `${100 * Math.max(0, end - start)}%`;
  return element;
}

/** Brings the rows of a table body in line with `keys`, and leaves those alone that stay: focus and selection stay too. */
export function keyed(body, rows, keys, make, update) {
  for (const [id, row] of rows) {
    if (!keys.includes(id)) {
      row.remove();
      rows.delete(id);
    }
  }
  keys.forEach((id, number) => {
    if (!rows.has(id)) rows.set(id, make(id));
    const row = rows.get(id);
    update(row, id);
    if (body.children[number] !== row) body.insertBefore(row, body.children[number] ?? null);
  });
}

export function seconds(value) {
  if (value === null || value === undefined) return "–";
  if (value === 0) return "0 s";
  if (value >= 99.5) return `${Math.round(value)} s`;
  if (value >= 9.95) return `${value.toFixed(1)} s`;
  if (value >= 0.9995) return `${value.toFixed(2)} s`;
  const ms = value * 1000;
  return `${ms >= 9.95 ? Math.round(ms) : ms.toFixed(1)} ms`;
}

export function rate(bytesPerS) {
  const bits = bytesPerS * 8;
  if (bits === 0) return "0 bit/s";
  if (bits >= 9.995e8) return `${short(bits / 1e9)} Gbit/s`;
  if (bits >= 9.995e5) return `${short(bits / 1e6)} Mbit/s`;
  return `${short(bits / 1e3)} kbit/s`;
}

export function bytes(count) {
  for (const [unit, size] of [["GB", 1e9], ["MB", 1e6], ["kB", 1e3]]) {
    if (count >= 0.9995 * size) return `${short(count / size)} ${unit}`;
  }
  return `${Math.round(count)} B`;
}

export const whole = (value) => Math.round(value).toLocaleString("en");
export const clock = (unixS) => new Date(unixS * 1000).toLocaleTimeString("en-GB");
export const plural = (count, word) => `${whole(count)} ${word}${count === 1 ? "" : "s"}`;

function short(value) {
  return value >= 99.5 ? String(Math.round(value)) : value.toFixed(value >= 9.95 ? 1 : 2);
}

/** Group of an outcome or of another end: it decides the colour, the words beside it say the rest. */
export function groupOf(became) {
  if (became === "offloaded") return "offloaded";
  if (became.startsWith("local_")) return "local";
  if (became.startsWith("fallback_")) return "fallback";
  return became === "" ? "running" : "failed";
}

export const words = (name) => name.replaceAll("_", " ");
