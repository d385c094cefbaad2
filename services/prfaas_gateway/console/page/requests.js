// The last requests; a click or Enter opens the waterfall of one.

import { byId, clock, el, groupOf, keyed, seconds, whole, words } from "./dom.js";
import { showWaterfall } from "./waterfall.js";

const rows = new Map();
let opened = null;
let shown = null;

export function showRequests(state) {
  shown = state;
  const requests = state.section("requests");
  const own = state.sole("gateway")?.site ?? "";
  const ids = [...requests.keys()].sort((left, right) => requests.get(right).arrived_unix_s - requests.get(left).arrived_unix_s);
  if (opened && !requests.has(opened)) opened = null;
  const keys = ids.flatMap((id) => (id === opened ? [id, `${id} detail`] : [id]));
  keyed(byId("requests"), rows, keys, make, (row, id) => update(row, requests.get(id), own));
  byId("requests-empty").hidden = ids.length > 0;
  const running = state.sole("gateway")?.running ?? 0;
  byId("requests-count").textContent = running ? `${whole(running)} under way` : "";
}

function make(id) {
  if (id.endsWith(" detail")) {
    const place = el("td", { class: "detail", colspan: "7", id: "request-detail" });
    return el("tr", {}, place);
  }
  const open = el("button", { type: "button", class: "open", "aria-expanded": "false" });
  const row = el("tr", { class: "request" }, el("th", { scope: "row" }, open));
  row.addEventListener("click", () => {
    opened = opened === id ? null : id;
    showRequests(shown);
  });
  for (const name of ["", "wide", "number wide", "number wide", "number", "number"]) row.append(el("td", { class: name }));
  return row;
}

function update(row, request, own) {
  if (!request) {
    const place = row.firstElementChild;
    const ended = rows.get(opened)?.dataset.told ?? "";
    if (place.dataset.shown === ended) return;
    place.dataset.shown = ended;
    showWaterfall(place, opened, own);
    return;
  }
  const told = JSON.stringify(request);
  const [open, outcome, site, prompt, answer, ttft, total] = row.children;
  open.firstElementChild.setAttribute("aria-expanded", String(opened === request.id));
  if (row.dataset.told === told) return;
  row.dataset.told = told;
  const failed = request.error ? "failed" : groupOf(request.outcome);
  const text = request.error ? words(request.error) : words(request.outcome) || "under way";
  open.firstElementChild.textContent = clock(request.arrived_unix_s);
  outcome.replaceChildren(el("span", { class: `outcome ${failed}` }, text));
  site.textContent = request.prefill_site || "–";
  prompt.textContent = whole(request.prompt_tokens);
  answer.textContent = whole(request.completion_tokens);
  ttft.textContent = seconds(request.ttft_s);
  total.textContent = request.duration_s === null ? "…" : seconds(request.duration_s);
}
