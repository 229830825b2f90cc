// Setting up: grants, prices, quotas and rates.

import { ask, change } from "./api.js";
import { card, field, h, select, table } from "./dom.js";
import { customer, duration, number } from "./words.js";

const text = (name, more = {}) => h("input", { name, required: true, autocomplete: "off", spellcheck: "false", ...more });
const whole = (name, more = {}) => h("input", { name, type: "number", min: 0, step: 1, required: true, ...more });

export class Setup {
  constructor(page, meter) {
    this.page = page;
    this.meter = meter;
    this.wallets = h("div");
    this.prices = h("div");
    this.policies = h("div");
    this.codes = h("datalist", { id: "codes" });
    this.people = h("datalist", { id: "people" });
    this.element = h("div", {}, h("h1", {}, "Set up"), this.codes, this.people, h("div", { class: "halves" },
      h("div", {}, card("Grants", this.wallets, this.grantForm()), card("Quotas and rates", this.policies, this.policyForm())),
      card("Prices", this.prices, this.priceForm())));
  }

  async open() {
    await this.refresh();
    if (this.meter) this.choose(this.meter);
  }

  close() {}

  async refresh() {
    const [{ customers }, { meters, policies }, summary] = await Promise.all([ask("customers", { ...onlyCustomer(this.page.filter), limit: 500 }), ask("catalogue"), ask("summary")]);
    this.page.summary(summary);
    this.codes.replaceChildren(...[...new Set(meters.flatMap((meter) => meter.features))].map((value) => h("option", { value })));
    this.people.replaceChildren(...[...new Set(customers.map((row) => row.principal_id))].map((value) => h("option", { value })));
    this.wallets.replaceChildren(this.walletTable(customers));
    this.features = new Map(meters.map((meter) => [meter.meter_code, meter.features[0] ?? meter.meter_code]));
    this.prices.replaceChildren(this.priceTable(meters));
    this.policies.replaceChildren(this.policyTable(policies));
  }

  // Sends what a form says, then shows what became of it.
  form(label, read, ...children) {
    const form = h("form", { class: "row", "aria-label": label }, children, h("button", { class: "main" }, label));
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      const values = Object.fromEntries(new FormData(form));
      this.apply(...read(values)).then((done) => done && this.page.say(`${label}: done`));
    });
    return form;
  }

  apply(what, body) {
    return this.page.attempt(async () => {
      await change(what, body);
      await this.refresh();
    });
  }

  walletTable(customers) {
    return table("Wallets", [["Customer"], ["Granted", "number"], ["Spent", "number"], ["Balance", "number"], [""]], customers.map((row) => h("tr", {},
      h("td", {}, customer(row)), h("td", { class: "number" }, number(row.granted_xusd)), h("td", { class: "number" }, number(row.spent_xusd)),
      h("td", { class: `number ${row.balance_xusd > 0 ? "" : "bad"}` }, number(row.balance_xusd)),
      h("td", { class: "act" }, h("button", {
        type: "button", disabled: row.balance_xusd <= 0, "aria-label": `Take back the balance of ${customer(row)}`,
        onclick: () => this.apply("withdrawals", { principal_id: row.principal_id, user_id: row.user_id }),
      }, "Take back")))), "Nobody has money yet, so everybody is denied what has a price.");
  }

  grantForm() {
    return this.form("Grant", (values) => ["grants", { principal_id: values.principal_id, user_id: values.user_id || null, xusd: Number(values.xusd) }],
      field("Customer", text("principal_id", { list: "people" })), field("User (optional)", text("user_id", { required: false })),
      field("XUSD (1,000,000 is $1)", whole("xusd", { value: 1000000 })));
  }

  priceForm() {
    const feature = text("feature_code", { list: "codes", placeholder: "openai.gpt-4o", class: "long" });
    const meter = text("meter_code", { placeholder: "openai.gpt-4o.tokens.input", class: "long" });
    const price = whole("xusd", { required: false });
    this.choose = (code) => {
      feature.value = this.features.get(code) ?? code;
      meter.value = code;
      price.value = "";
      price.focus();
    };
    return this.form("Set price", (values) => ["prices", {
      feature_code: values.feature_code, meter_code: values.meter_code, xusd: values.xusd === "" ? null : Number(values.xusd),
      per: Number(values.per), unit: values.unit, rounding: values.rounding,
    }], field("Feature", feature), field("Meter", meter), field("XUSD (empty: no price)", price),
    field("Per", whole("per", { value: 1, min: 1 })), field("Unit", text("unit", { value: "token" })),
    field("Rounding", select("rounding", ["nearest", "floor", "ceil"].map((value) => [value, value]))),
    h("p", { class: "soft wide" }, "Charged in whole blocks of “Per”: what does not fill one waits for the next run. $2.50 per 1,000,000 is best set as 5 per 2."));
  }

  priceTable(meters) {
    return table("Prices", [["Meter"], ["XUSD", "number"], ["per"], [""]], meters.map((meter) => h("tr", {},
      h("td", { class: "code", title: `of ${meter.features.join(", ")}` }, meter.meter_code),
      meter.xusd === null ? h("td", { class: "number warn" }, "no price") : h("td", { class: "number" }, number(meter.xusd)),
      h("td", { class: "tight" }, meter.xusd === null ? "" : `${meter.per === 1 ? "" : `${number(meter.per)} `}${meter.unit}`),
      h("td", { class: "act" }, h("button", {
        type: "button", "aria-label": `Set the price of ${meter.meter_code}`, onclick: () => this.choose(meter.meter_code),
      }, "Set")))), "No meters yet. They appear when they are first used, or priced.");
  }

  policyTable(policies) {
    return table("Quotas and rates", [["Feature"], ["What"], ["Used at most", "number"], [""]], policies.map((row) => h("tr", {},
      h("td", {}, row.feature_code),
      h("td", {}, `${number(row.limit)} ${row.kind === "quota" ? "units" : "calls"} in ${duration(row.window_sec)}`),
      h("td", { class: `number ${row.used >= row.limit ? "bad" : ""}` }, `${number(row.used)} of ${number(row.limit)}`),
      h("td", { class: "act" }, h("button", {
        type: "button", "aria-label": `Lift the ${row.kind} of ${row.feature_code}`,
        onclick: () => this.apply("policies", { kind: row.kind, feature_code: row.feature_code, limit: null, window_sec: row.window_sec }),
      }, "Lift")))), "None: every customer may use as much as there is money for.");
  }

  policyForm() {
    return this.form("Set limit", (values) => ["policies", {
      kind: values.kind, feature_code: values.feature_code, limit: Number(values.limit), window_sec: Number(values.window_sec),
    }], field("What", select("kind", [["quota", "quota: units"], ["rate", "rate: calls"]])), field("Feature", text("feature_code", { list: "codes" })),
    field("Limit", whole("limit", { value: 0 })),
    field("Window", select("window_sec", [[60, "a minute"], [3600, "an hour"], [86400, "a day"], [604800, "a week"]], 86400)));
  }
}

const onlyCustomer = (filter) => ({ principal_id: filter.principal_id });
