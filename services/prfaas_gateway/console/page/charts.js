// The last quarter hour: outcomes per minute as stacked bars, times to first token as lines. Redrawn when a slot changes.

import { byId, el, groupOf, plural, seconds, svg, whole } from "./dom.js";

const SLOT_S = 10;
const SLOTS = 90;
const HEIGHT = 170;
const LEFT = 44;
const BOTTOM = 22;
const TOP = 8;
const GROUPS = ["offloaded", "local", "fallback", "failed"];

export function showCharts(state) {
  const newest = Math.floor(state.atS / SLOT_S);
  const slots = new Map([...state.section("slots")].map(([number, slot]) => [Number(number) - newest + SLOTS - 1, slot]));
  showOutcomes(slots);
  showTtft(slots, state.sole("scheduler")?.ttft_objective_s ?? null);
}

/** What the last minute had: for the numbers at the top of the page. */
export function lastMinute(state) {
  const newest = Math.floor(state.atS / SLOT_S);
  const sums = { ended: 0, offloaded: 0, failed: 0 };
  for (const [number, slot] of state.section("slots")) {
    if (Number(number) <= newest - 6) continue;
    for (const [became, count] of Object.entries(slot.ended)) {
      sums.ended += count;
      const group = groupOf(became);
      if (group in sums) sums[group] += count;
    }
  }
  return sums;
}

function showOutcomes(slots) {
  const minutes = Array.from({ length: SLOTS / 6 }, () => Object.fromEntries(GROUPS.map((group) => [group, 0])));
  for (const [at, slot] of slots) {
    const minute = minutes[Math.floor(at / 6)];
    if (!minute) continue;
    for (const [became, count] of Object.entries(slot.ended)) minute[groupOf(became)] += count;
  }
  const sums = minutes.map((minute) => GROUPS.reduce((sum, group) => sum + minute[group], 0));
  const top = niceTop(Math.max(4, ...sums));
  const width = widthOf("outcomes");
  const drawing = frame("Requests that ended, per minute, over the last 15 minutes", width, top, whole);
  const step = (width - LEFT) / minutes.length;
  minutes.forEach((minute, number) => {
    let base = 0;
    for (const group of GROUPS) {
      if (!minute[group]) continue;
      const y = yOf(base + minute[group], top);
      const bar = { class: `bar ${group}`, x: LEFT + number * step + 2, y, width: step - 4, height: yOf(base, top) - y };
      drawing.append(svg("rect", bar));
      base += minute[group];
    }
  });
  const total = sums.reduce((sum, count) => sum + count, 0);
  const parts = GROUPS.map((group) => `${whole(minutes.reduce((sum, minute) => sum + minute[group], 0))} ${group}`);
  const said = `${plural(total, "request")} ended in the last 15 minutes: ${parts.join(", ")}.`;
  put("outcomes", drawing, GROUPS.map((group, number) => el("span", { class: `legend ${group}` }, parts[number])), said);
}

function showTtft(slots, objectiveS) {
  const course = (field) => [...slots].filter(([at, slot]) => at >= 0 && slot[field] !== null).sort((a, b) => a[0] - b[0]);
  const p50 = course("ttft_p50_s");
  const p90 = course("ttft_p90_s");
  const top = niceTop(Math.max(0.05, ...p90.map(([, slot]) => slot.ttft_p90_s)));
  const width = widthOf("ttft");
  const drawing = frame("Time to first token over the last 15 minutes", width, top, seconds);
  const shown = objectiveS !== null && objectiveS <= top;
  if (shown) {
    const y = yOf(objectiveS, top);
    drawing.append(svg("line", { class: "line objective", x1: LEFT, x2: width, y1: y, y2: y }));
  }
  for (const [name, points] of [["p90", p90], ["p50", p50]]) {
    const placed = points.map(([at, slot]) => [xOf(at, width), yOf(slot[`ttft_${name}_s`], top)]);
    drawing.append(svg("polyline", { class: `line ${name}`, points: placed.map((point) => point.join(",")).join(" ") }));
    for (const [cx, cy] of placed) drawing.append(svg("circle", { class: `dot ${name}`, cx, cy, r: 1.8 }));
  }
  const last = (points, field) => (points.length ? seconds(points.at(-1)[1][field]) : "–");
  const legend = [
    el("span", { class: "legend p50" }, `P50 ${last(p50, "ttft_p50_s")}`),
    el("span", { class: "legend p90" }, `P90 ${last(p90, "ttft_p90_s")}`),
    objectiveS === null ? null : el("span", shown ? { class: "legend dashed" } : {}, `objective ${seconds(objectiveS)}`),
  ];
  const said = p50.length
    ? `In the latest 10 seconds with a first token: median ${last(p50, "ttft_p50_s")}, 90th percentile ${last(p90, "ttft_p90_s")}.`
    : "No first token in the last 15 minutes.";
  put("ttft", drawing, legend, said);
}

function put(id, drawing, legend, said) {
  const caption = el("figcaption", {}, ...legend.filter(Boolean));
  drawing.setAttribute("aria-label", `${drawing.getAttribute("aria-label")}. ${said}`);
  byId(id).replaceChildren(caption, drawing);
}

function frame(label, width, top, show) {
  const drawing = svg("svg", { width, height: HEIGHT, role: "img", "aria-label": label });
  for (const share of [0, 0.5, 1]) {
    const y = yOf(share * top, top);
    drawing.append(svg("line", { class: "grid", x1: LEFT, x2: width, y1: y, y2: y }));
    drawing.append(svg("text", { x: LEFT - 8, y: y + 4, "text-anchor": "end" }, share ? show(share * top) : "0"));
  }
  for (const [minutes, anchor] of [[15, "start"], [10, "middle"], [5, "middle"], [0, "end"]]) {
    const x = LEFT + (width - LEFT) * (1 - minutes / 15);
    drawing.append(svg("text", { x, y: HEIGHT - 4, "text-anchor": anchor }, minutes ? `−${minutes} min` : "now"));
  }
  return drawing;
}

const widthOf = (id) => Math.max(240, Math.floor(byId(id).clientWidth));
const xOf = (slot, width) => LEFT + ((slot + 0.5) / SLOTS) * (width - LEFT);
const yOf = (value, top) => HEIGHT - BOTTOM - (value / top) * (HEIGHT - BOTTOM - TOP);

function niceTop(value) {
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 4, 6, 8, 10].map((step) => step * power).find((top) => top >= value * 0.999);
}
