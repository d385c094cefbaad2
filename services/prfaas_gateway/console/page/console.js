// The page: follows the stream, and shows each section when it changes.

import { lastMinute, showCharts } from "./charts.js";
import { byId, bytes, el, seconds, whole } from "./dom.js";
import { showMap } from "./map.js";
import { showModels, startPlayground } from "./playground.js";
import { showRequests } from "./requests.js";
import { follow, key } from "./stream.js";
import { showWorkers } from "./workers.js";

let latest = null;
let keyGiven = () => {};

function told(state, changed) {
  latest = state;
  const gateway = state.sole("gateway");
  const any = (...names) => names.some((name) => changed.has(name));
  if (any("gateway")) showGateway(gateway);
  if (any("sites", "links")) showMap(state);
  if (any("workers", "gateway")) showWorkers(state);
  if (any("requests", "gateway")) showRequests(state);
  showCharts(state);
  showNumbers(state);
}

function showGateway(gateway) {
  byId("place").textContent = `${gateway.site} / ${gateway.gateway}`;
  byId("key-button").hidden = !gateway.keys;
  const whose = gateway.whole ? "Requests of all clients of this gateway." : "Requests of your API key's tenant at this gateway.";
  byId("about").textContent = `prfaas ${gateway.version}. ${whose}`;
  showModels(gateway);
}

function showNumbers(state) {
  const gateway = state.sole("gateway");
  const scheduler = state.sole("scheduler");
  const minute = lastMinute(state);
  const share = minute.ended ? Math.round((100 * minute.offloaded) / minute.ended) : 0;
  const threshold = scheduler?.threshold_tokens ?? null;
  const owed = [...state.section("links").values()].reduce((sum, link) => sum + link.owed_bytes, 0);
  const silent = scheduler?.silent_s ? `silent for ${seconds(scheduler.silent_s)}` : `term ${scheduler?.term ?? ""}`;
  numbers([
    ["Under way", whole(gateway.running), "requests here"],
    ["Ended", whole(minute.ended), "in the last minute"],
    ["Offloaded", `${share} %`, `${whole(minute.offloaded)} in the last minute`],
    ["Failed", whole(minute.failed), "in the last minute"],
    ["KV under way", bytes(owed), "over all links"],
    ["Policy", scheduler?.policy ?? "–", scheduler ? (threshold === null ? silent : `t = ${whole(threshold)} tokens, ${silent}`) : "no scheduler answers"],
  ]);
}

function numbers(rows) {
  const list = byId("numbers");
  while (list.children.length < rows.length) list.append(el("div", {}, el("dt"), el("dd"), el("dd", { class: "note" })));
  rows.forEach((texts, number) => {
    const cells = list.children[number].children;
    texts.forEach((text, cell) => {
      if (cells[cell].textContent !== text) cells[cell].textContent = text;
    });
    cells[1].className = /^[a-z]/.test(texts[1]) ? "word" : "";
  });
}

function became(word, reason) {
  const live = byId("live");
  const text = { live: "Live", lost: reason, key: "Locked" }[word];
  if (word === "key") askForKey(reason); // each time: a second wrong key wants another try
  if (live.dataset.state === word && live.textContent === text) return;
  live.dataset.state = word;
  live.textContent = text;
}

function askForKey(reason) {
  if (reason) byId("key-why").textContent = reason;
  byId("key-button").hidden = false;
  const dialog = byId("key-dialog");
  if (!dialog.open) dialog.showModal();
}

byId("key-button").addEventListener("click", () => byId("key-dialog").showModal());
byId("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  byId("key-dialog").close();
  key.set(byId("key-input").value.trim());
  byId("key-input").value = "";
  if (latest) location.reload();
  else keyGiven();
});
byId("key-forget").addEventListener("click", () => {
  key.forget();
  location.reload();
});

startPlayground(() => latest);
matchMedia("(max-width: 600px)").addEventListener("change", () => latest && showMap(latest));
follow(told, became, () => new Promise((resolve) => (keyGiven = resolve)));
