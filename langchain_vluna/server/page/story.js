// The story of a run: each lease from the question to the charge, with what the gate remarked.

import { ask, follow } from "./api.js";
import { h, priceLink, table } from "./dom.js";
import { KINDS, count, customer, dollars, duration, hint, number, short, when, xusd } from "./words.js";

const MOST = 1000;

export class Story {
  constructor(page, id) {
    this.page = page;
    this.id = id;
    this.body = h("div");
    this.element = h("div", {}, h("h1", {}, "Run ", h("span", { class: "code" }, id)), this.body);
  }

  async open() {
    await this.refresh();
    this.source = follow({ run_id: this.id }, {
      onEntry: () => { this.soon ??= setTimeout(() => { this.soon = undefined; this.page.attempt(() => this.refresh()); }, 300); },
      onMissed: () => this.refresh(),
      onState: (state) => this.page.connected(state),
    });
  }

  close() {
    this.source?.close();
    clearTimeout(this.soon);
  }

  async refresh() {
    const [{ entries }, summary] = await Promise.all([ask("journal", { run_id: this.id, limit: MOST }), ask("summary")]);
    this.page.summary(summary);
    entries.reverse();
    if (!entries.length) {
      this.body.replaceChildren(h("p", { class: "soft" }, "No entry of the journal has this id as its run, its root run or its lease."));
      return;
    }
    this.body.replaceChildren(facts(entries), ...groups(entries).map((group) => chapter(group)));
  }
}

function facts(entries) {
  const charges = entries.filter((entry) => ["committed", "ingested"].includes(entry.kind));
  const sum = (of) => charges.reduce((total, entry) => total + of(entry), 0);
  const threads = [...new Set(entries.map((entry) => entry.thread_id).filter(Boolean))];
  const amount = sum((entry) => entry.amount_xusd);
  const told = [
    ["Customer", [...new Set(entries.map(customer).filter(Boolean))].join(", ")],
    ["Charged", xusd(amount), dollars(amount)],
    ["Units", number(sum((entry) => entry.quantity))],
    ["Took", duration((entries.at(-1).at_ms - entries[0].at_ms) / 1000)],
  ];
  const tiles = told.map(([name, value, title]) => h("div", { title }, h("dt", {}, name), h("dd", {}, value)));
  for (const thread of threads.slice(0, 3)) {
    tiles.push(h("div", {}, h("dt", {}, "Thread"), h("dd", {}, h("a", { href: `#/?thread_id=${encodeURIComponent(thread)}` }, thread))));
  }
  return h("dl", { class: "tiles" }, tiles);
}

// What one lease is about goes together, in the order of its first entry; a denial never got a lease.
function groups(entries) {
  const found = new Map();
  for (const entry of entries) {
    const place = entry.lease_id ?? entry.run_id ?? `entry ${entry.seq}`;
    if (!found.has(place)) found.set(place, []);
    found.get(place).push(entry);
  }
  return [...found.values()];
}

function chapter(entries) {
  // The charge knows more than the question: the model that answered, where its numbers are from.
  const named = entries.findLast((entry) => Object.keys(entry.labels).length) ?? entries[0];
  const title = named.feature_code ?? named.verb;
  const subject = named.labels.model ?? named.labels.tool ?? named.labels.retriever;
  return h("section", { class: "card" },
    h("h2", {}, title, subject && subject !== title ? h("span", { class: "soft" }, ` · ${subject}`) : null),
    h("ol", { class: "story" }, entries.map((entry) => step(entry, entries[0].at_ms))),
    details(named));
}

function step(entry, start) {
  const [kind, tone] = KINDS[entry.kind] ?? [entry.kind, ""];
  const later = entry.at_ms - start;
  return h("li", { class: tone, "data-kind": entry.kind },
    h("span", { class: "kind" }, kind), " ", h("span", {}, saying(entry)), " ",
    h("span", { class: "soft" }, later ? `+${duration(later / 1000)}` : when(entry.at_ms)),
    entry.meters.length ? meters(entry) : null,
    entry.hints.length ? h("ul", { class: "hints" }, entry.hints.map((one) => h("li", {}, hint(one), " ", h("code", { class: "soft" }, one.type)))) : null,
    priceLink(entry));
}

function saying(entry) {
  switch (entry.kind) {
    case "authorized": return entry.estimate === null ? "" : `with an estimate of ${count(entry.estimate, "unit")}`;
    case "committed":
    case "ingested": return `${count(entry.quantity, "unit")} for ${xusd(entry.amount_xusd)}`;
    case "quarantined": return `${count(entry.quantity, "unit")} recorded, worth ${xusd(entry.amount_xusd)}`;
    case "denied":
    case "refused":
    case "failed": return `${entry.verb}: ${entry.status} ${entry.code}, ${entry.message}`;
    case "replayed": return `${entry.verb}: this key had been answered before`;
    case "fault": return `${entry.message} on ${entry.verb}`;
    default: return "";
  }
}

function meters(entry) {
  return table("Meters", [["Meter"], ["Units", "number"], ["XUSD", "number"]], entry.meters.map((line) => h("tr", {},
    h("td", { class: "code" }, line.meter_code), h("td", { class: "number" }, number(line.quantity)),
    h("td", { class: "number" }, number(line.amount_xusd)))));
}

function details(entry) {
  const known = [["lease", entry.lease_id], ["commit", entry.commit_id], ["key", entry.idempotency_key], ...Object.entries(entry.labels)];
  const rows = known.filter(([, value]) => value).map(([name, value]) => h("tr", {},
    h("td", { class: "soft tight" }, name), h("td", { class: "code" }, name === "root_run_id" || name === "run_id" ? h("a", { href: `#/run?id=${encodeURIComponent(value)}` }, value) : value)));
  return h("details", {}, h("summary", {}, `Labels and ids (${short(entry.run_id ?? entry.lease_id ?? entry.idempotency_key)})`), h("table", {}, h("tbody", {}, rows)));
}
