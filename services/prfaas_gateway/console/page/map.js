// Sites and the links between them: prefill sites on the left, each with its link to the own site on the right.

import { byId, bytes, el, plural, rate, seconds, spread } from "./dom.js";

export function showMap(state) {
  const sites = [...state.section("sites").values()];
  const own = sites.find((site) => site.own);
  if (!own) return;
  const others = sites.filter((site) => !site.own);
  const links = state.section("links");
  const parts = others.flatMap((site) => [siteCard(site), linkCard(site, own, links.get(`${site.name}.${own.name}`))]);
  const home = siteCard(own);
  if (others.length) {
    home.style.gridRow = narrow.matches ? "auto" : `1 / span ${others.length}`;
    home.style.gridColumn = narrow.matches ? "auto" : "3";
  } else {
    parts.push(el("p", { class: "empty" }, "No other site prefills for this one."));
  }
  byId("map").replaceChildren(...parts, home);
}

const narrow = matchMedia("(max-width: 600px)");

function siteCard(site) {
  const workers = [];
  if (site.prefill_workers) workers.push(`${site.prefill_workers} prefill`);
  if (site.decode_workers) workers.push(`${site.decode_workers} decode`);
  const queue = site.wait_s === null ? "queue not known" : `queue ${seconds(site.wait_s)}, ${plural(site.placed, "prefill")} placed`;
  return el(
    "article",
    { class: site.own ? "site own" : "site", "aria-label": `Site ${site.name}` },
    el("h3", {}, site.name),
    el("p", {}, workers.length ? `${workers.join(" and ")} workers` : "no worker"),
    site.prefill_workers || site.placed ? el("p", {}, queue) : null,
    warning(site),
  );
}

function warning(site) {
  let text = "";
  if (site.distrusted) text = "made wrong KV: gets no prompts";
  else if (site.breaker === "open") text = "failing: gets no prompts";
  else if (site.breaker === "half_open") text = "failing: tried again";
  return text ? el("p", { class: "warning" }, text) : null;
}

function linkCard(source, own, link) {
  const name = `Link from ${source.name} to ${own.name}`;
  if (!link) {
    return el("div", { class: "link", role: "group", "aria-label": name }, el("strong", {}, "no link is known"), pipe(0, null, name, ""));
  }
  const budget = link.budget_bytes_per_s;
  const sent = link.sent_bytes_per_s ?? 0;
  const full = Math.max(budget ?? 0, link.goodput_bytes_per_s, sent) || 1;
  const now = link.sent_bytes_per_s === null ? "rate not told" : `${rate(sent)} now`;
  const said = `${now}, carries ${rate(link.goodput_bytes_per_s)}, ${budget === null ? "no budget" : `budget ${rate(budget)}`}`;
  const facts = [`RTT ${seconds(link.rtt_s)}`, `${bytes(link.owed_bytes)} under way`];
  if (link.retransmit_share) facts.push(`${(100 * link.retransmit_share).toFixed(1)} % resent`);
  return el(
    "div",
    { class: "link", role: "group", "aria-label": name },
    el("div", { class: "row" }, el("strong", {}, now), el("span", {}, budget === null ? "no budget" : `budget ${rate(budget)}`)),
    pipe(sent / full, link.goodput_bytes_per_s / full, name, said),
    el("div", { class: "row" }, el("span", {}, `carries ${rate(link.goodput_bytes_per_s)}`), el("span", {}, facts.join(" · "))),
  );
}

/** A bar with an arrow: filled by what is sent, with a mark at what the link carries. */
function pipe(sent, carries, name, said) {
  const bar = el("div", { class: "pipe", role: "meter", "aria-label": `${name}: rate`, "aria-valuemin": 0, "aria-valuemax": 100 });
  bar.setAttribute("aria-valuenow", Math.round(100 * sent));
  bar.setAttribute("aria-valuetext", said || "not known");
  bar.dataset.busy = sent > 0.005 ? "yes" : "no";
  bar.append(spread(el("div", { class: "sent" }), 0, sent));
  if (carries !== null) {
    const mark = el("div", { class: "carries", title: "what the link carries" });
    mark.style.left = `calc(${100 * carries}% - 2px)`;
    bar.append(mark);
  }
  return bar;
}
