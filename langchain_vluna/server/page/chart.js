// Spend over time: stacked bars by uPlot, and a table that says the same in numbers.

import { h, table } from "./dom.js";
import { day, number, time, xusd } from "./words.js";

export class SpendChart {
  constructor() {
    this.place = h("div", { class: "chart", role: "img", "aria-label": "Spend over time; the table below has the numbers" });
    this.readout = h("p", { class: "readout soft" });
    this.legend = h("div");
    this.element = h("div", {}, this.place, this.readout, this.legend);
    this.spend = null;
    new ResizeObserver(() => this.plot?.setSize(this.size())).observe(this.place);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.spend && this.show(this.spend));
  }

  size() {
    return { width: Math.max(this.place.clientWidth, 200), height: 220 };
  }

  show(spend) {
    this.spend = spend;
    const colours = spend.series.map((_, index) => colour(`--c${index}`));
    this.plot?.destroy();
    this.plot = new uPlot(this.options(spend, colours), stacked(spend), this.place);
    this.rest();
    this.legend.replaceChildren(table("Spend in this span",
      [["Name"], ["Runs", "number"], ["Units", "number"], ["XUSD", "number"]],
      spend.series.map((series, index) => h("tr", {},
        h("td", {}, swatch(index), series.name),
        h("td", { class: "number" }, number(series.runs)),
        h("td", { class: "number" }, number(series.quantity)),
        h("td", { class: "number" }, number(series.xusd)))),
      "Nothing was charged in this span."));
  }

  options(spend, colours) {
    const ink = colour("--soft");
    const axis = { stroke: ink, grid: { stroke: colour("--line"), width: 1 }, ticks: { show: false }, font: "12px system-ui" };
    // The sum of all is drawn first, and each smaller sum over it.
    const series = spend.series.map((one, index) => ({
      label: one.name, fill: colours[index], width: 0, points: { show: false }, paths: uPlot.paths.bars({ size: [0.75, 40], align: 1 }),
    }));
    return {
      ...this.size(),
      legend: { show: false },
      cursor: { points: { show: false }, y: false, drag: { setScale: false } },
      scales: { x: { range: [spend.since_ms / 1000, (spend.since_ms + spend.count * spend.step_ms) / 1000] }, y: { range: (_, low, high) => [0, Math.max(high * 1.08, 1)] } },
      axes: [{ ...axis, size: 28, values: (_, ticks) => once(ticks.map((tick) => (spend.step_ms < 21600000 ? time(tick * 1000).slice(0, 5) : day(tick * 1000).split(",")[0]))) }, { ...axis, size: 72, values: (_, ticks) => ticks.map((tick) => (Number.isInteger(tick) ? number(tick) : "")) }],
      series: [{}, ...series],
      hooks: { setCursor: [(plot) => this.point(plot.cursor.left >= 0 ? plot.posToVal(plot.cursor.left, "x") : null)] },
    };
  }

  point(seconds) {
    if (seconds === null) return this.rest();
    const { since_ms, step_ms, count, series } = this.spend;
    const bucket = Math.floor((seconds * 1000 - since_ms) / step_ms);
    if (bucket < 0 || bucket >= count) return this.rest();
    const start = since_ms + bucket * step_ms;
    const parts = series.filter((one) => one.by_bucket[bucket]).map((one) => `${one.name} ${xusd(one.by_bucket[bucket])}`);
    this.readout.textContent = `${step_ms < 3600000 ? time(start).slice(0, 5) : day(start)}: ${parts.join(", ") || "nothing"}`;
  }

  rest() {
    const total = this.spend.series.reduce((sum, one) => sum + one.xusd, 0);
    this.readout.textContent = `${xusd(total)} in this span`;
  }
}

function stacked(spend) {
  const times = Array.from({ length: spend.count }, (_, index) => (spend.since_ms + index * spend.step_ms) / 1000);
  const sums = new Array(spend.count).fill(0);
  const layers = spend.series.toReversed().map((series) => series.by_bucket.map((value, index) => (sums[index] += value)));
  return [times, ...layers.toReversed()];
}

// Four buckets a day would name each day four times.
const once = (texts) => texts.map((text, index) => (text === texts[index - 1] ? "" : text));
const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

function swatch(index) {
  const square = h("span", { class: "swatch", "aria-hidden": "true" });
  square.style.background = `var(--c${index})`;
  return square;
}
