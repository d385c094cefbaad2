// A prompt, its tokens as they come, and where and why it was prefilled.

import { byId, el, plural, seconds, words } from "./dom.js";
import { events, withKey } from "./stream.js";
import { showWaterfall } from "./waterfall.js";

let stopping = null;

export function showModels(gateway) {
  const select = byId("play-model");
  const known = [...select.options].map((option) => option.value).join("\n");
  if (known === gateway.models.join("\n")) return;
  select.replaceChildren(...gateway.models.map((model) => el("option", { value: model }, model)));
}

export function startPlayground(state) {
  byId("play").addEventListener("submit", (event) => {
    event.preventDefault();
    send(state());
  });
  byId("play-stop").addEventListener("click", () => stopping?.abort());
  byId("play-prompt").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) byId("play").requestSubmit();
  });
}

async function send(state) {
  const answer = byId("play-answer");
  const controller = new AbortController();
  stopping = controller;
  byId("play-send").disabled = true;
  byId("play-stop").disabled = false;
  answer.hidden = false;
  answer.setAttribute("aria-busy", "true");
  answer.replaceChildren();
  byId("play-facts").hidden = true;
  byId("play-waterfall").replaceChildren();
  try {
    await ask(state, answer, controller.signal);
  } catch (error) {
    const text = error.name === "AbortError" ? "stopped" : error.message;
    answer.append(el("p", { class: "empty" }, text));
  } finally {
    answer.setAttribute("aria-busy", "false");
    byId("play-send").disabled = false;
    byId("play-stop").disabled = true;
  }
}

async function ask(state, answer, signal) {
  const body = {
    model: byId("play-model").value,
    messages: [{ role: "user", content: byId("play-prompt").value }],
    max_tokens: Number(byId("play-tokens").value),
    stream: true,
    stream_options: { include_usage: true },
  };
  const startedAt = performance.now();
  const headers = withKey({ "content-type": "application/json", "x-prfaas-report": "1" });
  const response = await fetch("v1/chat/completions", { method: "POST", headers, body: JSON.stringify(body), signal });
  if (!response.ok) {
    const refused = await response.json().catch(() => ({}));
    throw new Error(refused.error?.message ?? `The gateway answers with status ${response.status}`);
  }
  let firstAt = null;
  let usage = null;
  let id = "";
  for await (const data of events(response)) {
    if (data === "[DONE]") break;
    const chunk = JSON.parse(data);
    if (chunk.error) throw new Error(chunk.error.message);
    id = chunk.id.slice(chunk.id.indexOf("-") + 1);
    usage = chunk.usage ?? usage;
    const text = chunk.choices[0]?.delta?.content;
    if (!text) continue;
    firstAt ??= performance.now();
    answer.append(text);
    answer.scrollTop = answer.scrollHeight;
  }
  showFacts(response.headers, usage, startedAt, firstAt);
  await showWaterfall(byId("play-waterfall"), id, state?.sole("gateway")?.site ?? "");
}

function showFacts(headers, usage, startedAt, firstAt) {
  const endedAt = performance.now();
  const tokens = usage?.completion_tokens ?? 0;
  const rest = tokens > 1 && firstAt !== null ? `, then ${(((tokens - 1) * 1000) / Math.max(1, endedAt - firstAt)).toFixed(1)} tokens/s` : "";
  const cached = usage?.prompt_tokens_details?.cached_tokens ?? 0;
  const facts = [
    ["Prefilled at", `${headers.get("x-prfaas-prefill-site") ?? "–"} (${words(headers.get("x-prfaas-outcome") ?? "")})`],
    ["Why", headers.get("x-prfaas-reason") ?? "–"],
    ["First token", firstAt === null ? "none came" : `after ${seconds((firstAt - startedAt) / 1000)}${rest}`],
    ["Tokens", `${plural(usage?.prompt_tokens ?? 0, "token")} in, ${cached} of them cached; ${plural(tokens, "token")} out`],
  ];
  const list = byId("play-facts");
  list.replaceChildren(...facts.flatMap(([name, text]) => [el("dt", {}, name), el("dd", {}, text)]));
  list.hidden = false;
}
