// The overview: totals, spend, what happens right now, wallets and open leases.

import { ask, follow } from "./api.js";
import { SpendChart } from "./chart.js";
import { card, h, priceLink, select, table } from "./dom.js";
import { KINDS, customer, dollars, duration, gist, number, short, when } from "./words.js";

const SHOWN = 200;
const COLUMNS = [["Time"], ["What"], ["Customer"], ["Feature"], ["Answer"], ["Run"]];

export class Overview {
  constructor(page) {
    this.page = page;
    this.chart = new SpendChart();
    this.by = select("by", [["feature", "by feature"], ["model", "by model or tool"], ["customer", "by customer"]]);
    this.span = select("span", [["hour", "last hour"], ["day", "last day"], ["week", "last week"], ["month", "last month"]]);
    for (const control of [this.by, this.span]) control.addEventListener("change", () => this.refresh());
    this.tiles = h("dl", { class: "tiles" });
    this.rows = h("tbody");
    this.pause = h("button", { type: "button", "aria-pressed": "false", onclick: () => this.toggle() }, "Pause");
    this.took = 0;
    this.customers = h("div");
    this.leases = h("div");
    this.spend = this.spendCard();
    this.element = h("div", {}, h("h1", { class: "unseen" }, "Overview"), this.tiles, this.spend,
      h("div", { class: "columns" }, this.liveCard(),
        h("div", {}, card("Customers", this.customers), card("Open leases", this.leases))));
  }

  spendCard() {
    const labelled = (text, control) => { control.setAttribute("aria-label", text); return control; };
    return h("section", { class: "card" }, h("div", { class: "head" }, h("h2", {}, "Spend"),
      labelled("Group spend", this.by), labelled("Span", this.span)), this.chart.element);
  }

  liveCard() {
    const head = h("thead", {}, h("tr", {}, COLUMNS.map(([title]) => h("th", { scope: "col" }, title))));
    return h("section", { class: "card" }, h("div", { class: "head" }, h("h2", {}, "Live"), this.pause),
      h("div", { class: "live", tabindex: "0", role: "region", "aria-label": "Live entries" },
        h("table", {}, h("caption", { class: "unseen" }, "Who asked what, newest first"), head, this.rows)));
  }

  async open() {
    const { entries } = await ask("journal", { ...this.page.filter, limit: SHOWN });
    this.rows.replaceChildren(...entries.map((entry) => line(entry)));
    if (!entries.length) this.rows.append(await this.welcome());
    const after = entries.length ? entries[0].seq : 0;
    this.source = follow({ ...this.page.filter, after }, {
      onEntry: (entry) => this.add(entry),
      onMissed: (count) => this.rows.prepend(h("tr", {}, h("td", { colspan: 6, class: "soft" }, `${number(count)} entries went by too fast to show`))),
      onState: (state) => this.page.connected(state),
    });
    await this.refresh();
  }

  close() {
    this.source?.close();
    clearTimeout(this.soon);
  }

  add(entry) {
    if (this.pause.getAttribute("aria-pressed") === "true") { (this.held ??= []).push(entry); this.pause.textContent = `Resume (${this.held.length})`; return; }
    this.rows.querySelector(".welcome")?.remove();
    this.rows.prepend(line(entry, "fresh"));
    while (this.rows.children.length > SHOWN) this.rows.lastElementChild.remove();
    if (entry.kind === "denied") this.page.say(`${customer(entry)} denied: ${entry.message}`);
    // A long ledger takes its time to add up, and the gate's own requests come first.
    this.soon ??= setTimeout(() => { this.soon = undefined; this.refresh(); }, Math.max(400, 5 * this.took));
  }

  toggle() {
    const paused = this.pause.getAttribute("aria-pressed") !== "true";
    this.pause.setAttribute("aria-pressed", String(paused));
    this.pause.textContent = paused ? "Resume" : "Pause";
    const held = this.held ?? [];
    this.held = [];
    held.forEach((entry) => this.add(entry));
  }

  async refresh() {
    const start = performance.now();
    await this.page.attempt(async () => {
      const filter = this.page.filter;
      const [summary, spend, { customers }, { leases }] = await Promise.all([
        ask("summary"), ask("spend", { ...filter, by: this.by.value, span: this.span.value }),
        ask("customers", { principal_id: filter.principal_id }), ask("leases", { ...filter, limit: 50 }),
      ]);
      this.page.summary(summary);
      // These count everything, which would mislead beside what is filtered.
      this.tiles.hidden = Object.values(filter).some(Boolean);
      this.tiles.replaceChildren(...totals(summary));
      // Before the first charge there is nothing to draw, and the newcomer should see where to begin.
      this.spend.hidden = summary.ratings === 0;
      this.chart.show(spend);
      this.customers.replaceChildren(this.wallets(customers));
      this.leases.replaceChildren(openLeases(leases, summary.now_ms));
    });
    this.took = performance.now() - start;
  }

  wallets(customers) {
    return table("Customers", [["Customer"], ["Balance", "number"], ["Spent", "number"]], customers.map((row) => h("tr", {},
      h("td", {}, h("a", { href: this.page.href({ principal_id: row.principal_id }) }, customer(row))),
      h("td", { class: `number ${row.balance_xusd > 0 ? "" : "bad"}`, title: dollars(row.balance_xusd) }, number(row.balance_xusd)),
      h("td", { class: "number", title: dollars(row.spent_xusd) }, number(row.spent_xusd)))), "Nobody yet.");
  }

  async welcome() {
    const { realm_id, key_id } = await ask("summary");
    const lines = [`VLUNA_SERVICE_BASE_URL=${location.origin}/mgt/v1`, `VLUNA_REALM_ID=${realm_id}`, `VLUNA_SERVICE_KEY_ID=${key_id}`];
    return h("tr", { class: "welcome" }, h("td", { colspan: 6 }, h("p", {}, "Nothing happened yet. Point a client here:"),
      h("pre", {}, lines.map((line) => `export ${line}\n`).join("")),
      h("p", { class: "soft" }, "The fourth variable, the key's secret, is where the server was started. Then grant money and set prices under ", h("a", { href: "#/setup" }, "Set up"), ".")));
  }
}

function totals(summary) {
  const tiles = [
    ["Spent", `${number(summary.spent_xusd)} XUSD`, dollars(summary.spent_xusd)],
    ["Charges", number(summary.applied)],
    ["Not charged", number(summary.ratings - summary.applied), "recorded, but quarantined: look for hints"],
    ["Open leases", number(summary.open_leases)],
    ["Customers", number(summary.customers)],
  ];
  return tiles.map(([name, value, title]) => h("div", { title }, h("dt", {}, name), h("dd", {}, value)));
}

export function line(entry, fresh) {
  const [kind, tone] = KINDS[entry.kind] ?? [entry.kind, ""];
  const place = entry.root_run_id ?? entry.run_id ?? entry.lease_id;
  return h("tr", { class: fresh, "data-kind": entry.kind },
    h("td", { class: "tight soft", title: new Date(entry.at_ms).toISOString() }, when(entry.at_ms)),
    h("td", { class: `kind ${tone}` }, kind),
    h("td", { class: customer(entry).length < 24 ? "tight" : "" }, customer(entry)),
    h("td", { class: (entry.feature_code ?? "").length < 30 ? "tight" : "" }, entry.feature_code ?? ""),
    h("td", {}, gist(entry), " ", priceLink(entry)),
    h("td", { class: "tight code" }, place ? h("a", { href: `#/run?id=${encodeURIComponent(place)}`, title: place }, short(place)) : ""));
}

function openLeases(leases, now) {
  return table("Open leases", [["Customer"], ["Feature"], ["Age"], ["Lease"]], leases.map((lease) => h("tr", {},
    h("td", {}, customer(lease)), h("td", {}, lease.feature_code),
    h("td", { class: `tight ${lease.expires_ms < now ? "warn" : ""}` }, lease.expires_ms < now ? "expired" : duration(Math.round((now - lease.created_ms) / 1000))),
    h("td", { class: "tight code" }, h("a", { href: `#/run?id=${encodeURIComponent(lease.lease_id)}` }, short(lease.lease_id))))), "None is open.");
}
