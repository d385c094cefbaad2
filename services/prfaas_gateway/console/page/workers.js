// Workers of all sites that serve this one.

import { byId, el, keyed, plural, whole } from "./dom.js";

const rows = new Map();

export function showWorkers(state) {
  const workers = state.section("workers");
  const own = state.sole("gateway")?.site;
  const order = (id) => [workers.get(id).site === own ? 0 : 1, id];
  const ids = [...workers.keys()].sort((left, right) => (order(left) < order(right) ? -1 : 1));
  keyed(byId("workers"), rows, ids, () => el("tr"), (row, id) => fill(row, workers.get(id)));
  const hidden = state.sole("gateway")?.hidden_workers ?? 0;
  byId("workers-count").textContent = hidden ? `${whole(ids.length)} of ${whole(ids.length + hidden)}` : String(ids.length);
}

function fill(row, worker) {
  const told = JSON.stringify(worker);
  if (row.dataset.told === told) return;
  row.dataset.told = told;
  row.className = worker.draining ? "draining" : "";
  const role = worker.draining ? `${worker.role}, leaving` : worker.role;
  row.replaceChildren(
    el("th", { scope: "row" }, worker.name, " ", el("small", {}, worker.site)),
    el("td", {}, role),
    el("td", {}, batch(worker)),
    el("td", { class: "number" }, worker.role === "decode" ? whole(worker.waiting) : "–"),
    el("td", {}, worker.cache_usage === null ? "–" : cache(worker)),
    el("td", { class: "wide" }, worker.model),
  );
}

function batch(worker) {
  if (worker.role !== "decode") return meter(worker.running, worker.running ? "busy" : "idle", "Prefill");
  const said = `${worker.running} of ${plural(worker.slots, "slot")}`;
  return meter(worker.slots ? worker.running / worker.slots : 0, `${worker.running} / ${worker.slots}`, "Batch", said);
}

/** A prefill worker's cache keeps what there is room for, so a full one is as it should be; a decode worker's is about to refuse. */
function cache(worker) {
  const text = `${Math.round(100 * worker.cache_usage)} %`;
  return meter(worker.cache_usage, text, "KV cache", text, worker.role === "decode" && worker.cache_usage > 0.9);
}

function meter(share, text, label, said = text, high = false) {
  const fill = el("span", { class: high ? "fill high" : "fill" });
  fill.style.width = `${100 * Math.min(1, share)}%`;
  const values = { "aria-valuemin": 0, "aria-valuemax": 100, "aria-valuenow": Math.round(100 * Math.min(1, share)) };
  const track = el("span", { class: "track", role: "meter", "aria-label": label, "aria-valuetext": said, ...values }, fill);
  return el("span", { class: "meter" }, el("span", { class: "value" }, text), track);
}
