// Which view is shown, the filter, and what all views share.

import { FILTERS } from "./api.js";
import { Faults } from "./faults.js";
import { Overview } from "./overview.js";
import { Setup } from "./setup.js";
import { Story } from "./story.js";
import { duration } from "./words.js";

const by = (id) => document.getElementById(id);
const VIEWS = {
  "/": (page) => new Overview(page),
  "/setup": (page, values) => new Setup(page, values.get("meter")),
  "/faults": (page) => new Faults(page),
  "/run": (page, values) => new Story(page, values.get("id") ?? ""),
};

class Page {
  filter = {};
  view = null;

  // The address after `#` is a path and a query, so that every view can be linked to and gone back to.
  async show() {
    const [path, search] = location.hash.slice(1).split("?");
    const values = new URLSearchParams(search ?? "");
    this.filter = Object.fromEntries(FILTERS.map((name) => [name, values.get(name) ?? ""]));
    for (const name of FILTERS) by("filter").elements[name].value = this.filter[name];
    by("filter").hidden = path === "/run" || path === "/faults";
    // What is set up belongs to no thread and no run.
    for (const name of ["thread_id", "run_id"]) by("filter").elements[name].parentElement.hidden = path === "/setup";
    this.view?.close();
    this.view = (VIEWS[path] ?? VIEWS["/"])(this, values);
    by("main").replaceChildren(this.view.element);
    for (const link of document.querySelectorAll("nav a")) {
      const here = link.getAttribute("href") === `#${path || "/"}`;
      if (here) link.setAttribute("aria-current", "page"); else link.removeAttribute("aria-current");
    }
    await this.attempt(() => this.view.open());
  }

  href(filter) {
    const path = location.hash.slice(1).split("?")[0] || "/";
    const known = Object.entries({ ...this.filter, ...filter }).filter(([, value]) => value);
    return known.length ? `#${path}?${new URLSearchParams(known)}` : `#${path}`;
  }

  // Shows why something did not work; returns whether it did.
  async attempt(work) {
    try {
      await work();
      by("notice").hidden = true;
      return true;
    } catch (error) {
      const away = error instanceof TypeError && !navigator.onLine;
      by("notice").textContent = away ? "The server does not answer." : error.message;
      by("notice").hidden = false;
      return false;
    }
  }

  summary(summary) {
    const name = summary.database === ":memory:" ? "in memory" : summary.database.split("/").pop();
    const ahead = summary.ahead_seconds;
    const clock = ahead === 0 ? "" : `, clock ${ahead > 0 ? "+" : "−"}${duration(ahead)}`;
    const faults = summary.faults.length ? `, ${summary.faults.length} fault${summary.faults.length > 1 ? "s" : ""} armed` : "";
    by("clock").textContent = `${summary.realm_id}, ${name}${clock}${faults}`;
    this.connected("live");
  }

  connected(state) {
    by("link").textContent = state;
    by("link").dataset.state = state;
  }

  say(text) {
    by("spoken").textContent = text;
  }
}

const page = new Page();
by("filter").addEventListener("submit", (event) => {
  event.preventDefault();
  location.hash = page.href(Object.fromEntries(new FormData(event.target)));
});
by("filter").addEventListener("reset", () => { location.hash = page.href(Object.fromEntries(FILTERS.map((name) => [name, ""]))); });
window.addEventListener("hashchange", () => { page.show(); by("main").focus({ preventScroll: true }); });
page.show();
