// The server's API, and the filter that goes with every question.

const BASE = "/ui/api/";
export const FILTERS = ["principal_id", "thread_id", "run_id"];

export function query(values) {
  const known = Object.entries(values).filter(([, value]) => value !== "" && value !== null && value !== undefined);
  return new URLSearchParams(known).toString();
}

export async function ask(what, values = {}) {
  return read(await fetch(`${BASE}${what}?${query(values)}`));
}

export async function change(what, body, method = "POST") {
  const headers = { "content-type": "application/json", "x-vluna-page": "1" };
  return read(await fetch(BASE + what, { method, headers, body: body === undefined ? undefined : JSON.stringify(body) }));
}

async function read(response) {
  const answer = await response.json();
  if (!response.ok) throw new Error(answer.error ?? `${response.status} ${response.statusText}`);
  return answer;
}

export function follow(values, { onEntry, onMissed, onState }) {
  const source = new EventSource(`${BASE}stream?${query(values)}`);
  source.addEventListener("open", () => onState("live"));
  source.addEventListener("error", () => onState("no connection"));
  source.addEventListener("entry", (event) => onEntry(JSON.parse(event.data)));
  source.addEventListener("missed", (event) => onMissed(Number(event.data)));
  return source;
}
