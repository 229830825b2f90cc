// What things are called: numbers, times, kinds of entries, hints.

const whole = new Intl.NumberFormat("en-US");

export const number = (value) => whole.format(value);
export const count = (value, one) => `${number(value)} ${one}${value === 1 ? "" : "s"}`;
export const xusd = (value) => `${number(value)} XUSD`;
export const dollars = (value) => `$${(value / 1e6).toFixed(6)}`;

export function time(ms) {
  const moment = new Date(ms);
  const two = (value) => String(value).padStart(2, "0");
  return `${two(moment.getHours())}:${two(moment.getMinutes())}:${two(moment.getSeconds())}`;
}

export function day(ms) {
  return new Date(ms).toLocaleString("en-GB", { day: "numeric", month: "short", hour: "2-digit", minute: "2-digit" });
}

// The time alone is enough for what happened today.
export const when = (ms) => (new Date(ms).toDateString() === new Date().toDateString() ? time(ms) : day(ms));

export function duration(seconds) {
  const size = Math.abs(seconds);
  if (size < 10 && !Number.isInteger(size)) return `${number(Math.round(size * 1000))} ms`;
  if (size < 120) return `${Math.round(size)} s`;
  if (size < 7200) return `${Math.round(size / 60)} min`;
  return size < 172800 ? `${Math.round(size / 3600)} h` : `${Math.round(size / 86400)} days`;
}

// Ids that begin with the time look alike at their beginning.
export const short = (id) => (id && id.length > 13 ? `…${id.slice(-8)}` : id);
export const customer = (row) => (row.user_id ? `${row.principal_id} / ${row.user_id}` : row.principal_id);

// What each kind of entry is called, and its colour; the sign says it to whoever sees no colours.
export const KINDS = {
  authorized: ["→ authorized", ""],
  committed: ["✓ charged", "good"],
  ingested: ["✓ ingested", "good"],
  quarantined: ["! not charged", "warn"],
  canceled: ["– canceled", "soft"],
  too_late: ["– cancel too late", "soft"],
  checked: ["? dry run", "soft"],
  replayed: ["↻ answered again", "soft"],
  denied: ["✗ denied", "bad"],
  refused: ["✗ refused", "bad"],
  failed: ["✗ failed", "bad"],
  fault: ["⚡ fault", "odd"],
  changed: ["⚙ set up", "soft"],
};

export function gist(entry) {
  const hints = entry.hints.map(hint);
  switch (entry.kind) {
    case "authorized":
    case "checked":
      return [entry.estimate === null ? "" : `estimate ${number(entry.estimate)}`, ...hints].filter(Boolean).join("; ");
    case "committed":
    case "ingested":
      return [`${count(entry.quantity, "unit")}, ${xusd(entry.amount_xusd)}`, ...hints].join("; ");
    case "quarantined":
      return [`${count(entry.quantity, "unit")} recorded`, ...hints].join("; ");
    case "denied":
    case "refused":
    case "failed":
      return [`${entry.status} ${entry.message}`, ...hints].join("; ");
    case "changed":
      return `${entry.verb}: ${entry.message}`;
    case "fault":
      return `${entry.message} on ${entry.verb}`;
    default:
      return entry.verb;
  }
}

const HINTS = {
  "rate.limit": (hint) => (hint.remaining > 0 ? `${hint.remaining} more calls in this window` : `wait ${hint.seconds ?? "?"} s`),
  "quota.remaining": (hint) => `quota left: ${number(hint.max_quantity_minor ?? 0)}`,
  "funding.xusd_shortfall": (hint) => `short of ${xusd(hint.shortfall_xusd ?? 0)}`,
  "budget.shortfall": (hint) => `budget short of ${xusd(hint.shortfall_xusd ?? 0)}`,
  "budget.low_headroom": (hint) => `budget left: ${xusd(hint.headroom_xusd ?? 0)}`,
  "pricing.not_configured": (hint) => `no price for ${(hint.meters ?? []).join(", ")}`,
  "feature.meter_not_allowed": (hint) => `not meters of this feature: ${(hint.meters ?? []).join(", ")}`,
  "pricing.changed": () => "the client thought of another price",
  "lease.expired": (hint) => (hint.exceeded_grace ? "the lease had expired" : "the lease had expired, within its grace"),
  "lease.closed_at_commit": (hint) => `the lease was already ${hint.state ?? "closed"}`,
};

export function hint(value) {
  return HINTS[value.type]?.(value) ?? value.type;
}
