// The live stream: fetch instead of EventSource, which can send no API key.

const KEY = "prfaas-api-key";
const RETRY_MS = 2000;

export const key = {
  get: () => sessionStorage.getItem(KEY) ?? "",
  set: (text) => sessionStorage.setItem(KEY, text),
  forget: () => sessionStorage.removeItem(KEY),
};

export function withKey(headers = {}) {
  return key.get() ? { ...headers, authorization: `Bearer ${key.get()}` } : headers;
}

/** Data of each server-sent event of a response; comments and other events are left out. */
export async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      const blocks = (rest + value).split("\n\n");
      rest = blocks.pop();
      for (const block of blocks) {
        const lines = block.split("\n");
        if (lines.some((line) => line.startsWith("event:"))) continue;
        const data = lines.filter((line) => line.startsWith("data:")).map((line) => line.slice(5).trimStart());
        if (data.length) yield data.join("\n");
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

/** The state, which follows the stream's changes. Sections are maps from key to item. */
export class State {
  constructor() {
    this.sections = new Map();
    this.atS = 0;
  }

  /** Returns the names of the sections that changed. */
  apply(event) {
    const changed = new Set();
    for (const [name, items] of Object.entries(event.set)) {
      const section = this.section(name);
      for (const [id, item] of Object.entries(items)) section.set(id, item);
      changed.add(name);
    }
    for (const [name, ids] of Object.entries(event.gone)) {
      for (const id of ids) this.section(name).delete(id);
      changed.add(name);
    }
    this.atS = event.at_unix_s;
    return changed;
  }

  section(name) {
    if (!this.sections.has(name)) this.sections.set(name, new Map());
    return this.sections.get(name);
  }

  sole(name) {
    return this.section(name).get("-") ?? null;
  }
}

/**
 * Follows the stream for ever. `told(state, changed)` hears of each event, `became(word, reason)` of the connection:
 * `live`, `lost`, or `key` where a key is missing or refused; then `key` is awaited before the next try.
 */
export async function follow(told, became, keyGiven) {
  for (;;) {
    const state = new State();
    let reason = "The connection ended";
    try {
      const response = await fetch("console/events", { headers: withKey(), cache: "no-store" });
      if (response.status === 401) {
        became("key", key.get() ? "The gateway does not know this key." : "");
        await keyGiven();
        continue;
      }
      if (!response.ok) {
        const body = await response.json().catch(() => ({}));
        throw new Error(body.error?.message ?? `The gateway answers with status ${response.status}`);
      }
      for await (const data of events(response)) {
        const changed = state.apply(JSON.parse(data));
        became("live", "");
        told(state, changed);
      }
    } catch (error) {
      reason = error.message;
    }
    became("lost", reason);
    await new Promise((resolve) => setTimeout(resolve, RETRY_MS));
  }
}
