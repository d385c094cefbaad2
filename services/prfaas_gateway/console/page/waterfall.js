// One request's way as a waterfall.

import { el, plural, seconds, spread, whole } from "./dom.js";
import { withKey } from "./stream.js";

/** Shows the waterfall of a request in `place`, or why it cannot be had. */
export async function showWaterfall(place, id, own) {
  try {
    const response = await fetch(`console/requests/${encodeURIComponent(id)}`, { headers: withKey(), cache: "no-store" });
    const body = await response.json();
    if (!response.ok) throw new Error(body.error?.message ?? `The gateway answers with status ${response.status}`);
    place.replaceChildren(waterfall(body, own));
    if (!place.dataset.seen) place.scrollIntoView({ block: "nearest" });
    place.dataset.seen = "yes";
  } catch (error) {
    place.replaceChildren(el("p", { class: "empty" }, error.message));
  }
}

function waterfall(detail, own) {
  const endS = Math.max(1e-6, ...detail.stages.map((stage) => stage.end_s));
  const stages = detail.stages.map((stage) => stageRow(stage, endS, own));
  const { request } = detail;
  const facts = [
    ["Why there", detail.reason],
    ["Tokens", `${whole(request.prompt_tokens)} in (${whole(detail.cached_tokens)} cached), ${whole(request.completion_tokens)} out`],
    ["Request", request.id],
    ["X-Request-ID", detail.client_request_id === request.id ? "" : detail.client_request_id],
    ["Trace", detail.trace_id],
    ["Moved", detail.moves ? `placed again ${plural(detail.moves, "time")}` : ""],
    ["Error", request.error],
  ].filter(([, text]) => text);
  return el(
    "div",
    { class: "waterfall", role: "group", "aria-label": "Waterfall" },
    el("ol", { "aria-label": "Stages of the request" }, ...stages),
    el("dl", { class: "facts" }, ...facts.flatMap(([name, text]) => [el("dt", {}, name), el("dd", {}, text)])),
  );
}

function stageRow(stage, endS, own) {
  const lasted = seconds(stage.end_s - stage.start_s);
  let kind = "span";
  if (stage.name === "decode" || stage.name === "first token") kind = "span decoding";
  else if (stage.place !== own) kind = "span remote";
  const track = el("span", { class: "track", "aria-hidden": true }, spread(el("span", { class: kind }), stage.start_s / endS, stage.end_s / endS));
  for (const moment of stage.marks) {
    const mark = el("span", { class: "mark" });
    mark.style.left = `${(100 * moment) / endS}%`;
    track.append(mark);
  }
  const marks = stage.marks.length > 1 ? ` in ${stage.marks.length} ${stage.name === "prefill" ? "chunks" : "arrivals"}` : "";
  const note = stage.name === "placement" ? "" : `${stage.detail}${marks}`;
  const heard = el("span", { class: "hidden" }, `, from ${seconds(stage.start_s)} on`);
  return el(
    "li",
    { class: "stage" },
    el("span", { class: "name" }, stage.name, heard),
    el("span", { class: "where" }, stage.place),
    track,
    el("span", { class: "time" }, lasted),
    note ? el("span", { class: "note" }, note) : null,
  );
}
