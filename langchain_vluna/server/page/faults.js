// Faults on demand: a bad day of the gate's, the clock, and leases that expire.

import { ask, change } from "./api.js";
import { card, field, h, select, table } from "./dom.js";
import { count, duration, number } from "./words.js";

const KINDS = [
  ["drop_answer", "carried out, answer lost"], ["status_500", "500: it fails"], ["status_429", "429: too many calls"],
  ["status_402", "402: no balance"], ["reset", "the connection breaks"], ["delay", "a slow answer"],
];
const VERBS = [["*", "any call"], ...["authorize", "commit", "batch", "cancel", "ingest", "preflight", "limits"].map((verb) => [verb, verb])];
const FOREVER = 2 ** 31;

export class Faults {
  constructor(page) {
    this.page = page;
    this.armed = h("div");
    this.ahead = h("p");
    this.element = h("div", {}, h("h1", {}, "Faults"), h("div", { class: "halves" },
      card("Armed", this.armed, this.form(), this.outage()), h("div", {}, card("Clock", this.ahead, this.clock()), card("Leases", this.expiry()))));
  }

  async open() {
    await this.refresh();
    this.timer = setInterval(() => this.page.attempt(() => this.refresh()), 1000);
  }

  close() {
    clearInterval(this.timer);
  }

  async refresh() {
    const summary = await ask("summary");
    this.page.summary(summary);
    const state = JSON.stringify([summary.faults, summary.ahead_seconds]);
    if (state === this.state) return;
    this.state = state;
    const names = new Map(KINDS);
    this.armed.replaceChildren(table("Armed faults", [["Fault"], ["Hits"], ["Still", "number"]], summary.faults.map((fault) => h("tr", {},
      h("td", {}, fault.kind, h("span", { class: "soft" }, ` ${names.get(fault.kind)}${fault.kind === "delay" ? `, ${fault.seconds} s` : ""}`)),
      h("td", {}, fault.on === "*" ? "any call" : fault.on),
      h("td", { class: "number" }, fault.remaining >= FOREVER / 2 ? "until mended" : number(fault.remaining)))), "Nothing is broken."));
    const seconds = this.seconds = summary.ahead_seconds;
    this.ahead.textContent = seconds === 0 ? "The gate's clock is right." : `The gate's clock is ${duration(seconds)} ${seconds > 0 ? "ahead" : "behind"}.`;
  }

  apply(what, body, method) {
    return this.page.attempt(async () => { await change(what, body, method); await this.refresh(); });
  }

  form() {
    const form = h("form", { class: "row", "aria-label": "Arm a fault" }, field("Fault", select("kind", KINDS)), field("Hits", select("on", VERBS)),
      field("Times", h("input", { name: "times", type: "number", min: 1, step: 1, value: 1, required: true })),
      field("Seconds (delay, 429)", h("input", { name: "seconds", type: "number", min: 0, max: 3600, step: "any" })), h("button", { class: "main" }, "Arm"));
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      const values = Object.fromEntries(new FormData(form));
      this.apply("faults", { kind: values.kind, on: values.on, times: Number(values.times), seconds: values.seconds === "" ? null : Number(values.seconds) });
    });
    return form;
  }

  outage() {
    const button = (title, act) => h("button", { type: "button", onclick: act }, title);
    return h("div", { class: "row" },
      button("Outage: break every call", () => this.apply("faults", { kind: "reset", on: "*", times: FOREVER })),
      button("Mend everything", () => this.apply("faults", undefined, "DELETE")));
  }

  clock() {
    const steps = [[-3600, "1 h back"], [60, "1 min on"], [3600, "1 h on"], [43260, "12 h 1 min on: leases expire"], [86400, "1 day on"]];
    const move = (seconds) => this.apply("clock", { advance_seconds: seconds });
    return h("div", { class: "row" }, steps.map(([seconds, title]) => h("button", { type: "button", onclick: () => move(seconds) }, title)),
      h("button", { type: "button", onclick: () => move(-this.seconds) }, "Put it right"));
  }

  expiry() {
    const done = h("p", { role: "status", class: "soft" });
    const expire = () => this.page.attempt(async () => { done.textContent = `${count((await change("expiry", {})).expired, "open lease")} expired.`; });
    return h("div", {}, h("p", {}, "What is committed under an expired lease is recorded and not charged."),
      h("div", { class: "row" }, h("button", { type: "button", onclick: expire }, "Let all open leases expire")), done);
  }
}
