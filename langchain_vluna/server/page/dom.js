// Elements without templates: all text goes in as text, so nothing a customer is called can become markup.

export function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return element;
}

export function table(caption, columns, rows, empty) {
  const head = columns.map(([title, kind]) => h("th", { scope: "col", class: kind }, title));
  const body = rows.length
    ? rows
    : [h("tr", {}, h("td", { colspan: columns.length, class: "soft" }, empty))];
  return h("div", { class: "scroll" },
    h("table", {}, h("caption", { class: "unseen" }, caption), h("thead", {}, h("tr", {}, head)), h("tbody", {}, body)));
}

export function card(title, ...children) {
  return h("section", { class: "card" }, h("h2", {}, title), ...children);
}

export function select(name, options, chosen) {
  const element = h("select", { name }, options.map(([value, text]) => h("option", { value }, text)));
  if (chosen !== undefined) element.value = chosen;
  return element;
}

// Where the price is set that a charge was made without.
export function priceLink(entry) {
  const meter = entry.hints.find((hint) => hint.type === "pricing.not_configured")?.meters?.[0];
  return meter ? h("a", { href: `#/setup?meter=${encodeURIComponent(meter)}` }, "Set a price") : null;
}

export function field(text, control) {
  return h("label", {}, text, control);
}
