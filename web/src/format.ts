/** Numbers and times as people read them. */

const STEPS = ["", "k", "M", "G", "T"];

export function number(value: number | null | undefined, unit = ""): string {
  if (value === null || value === undefined) return "–";
  let step = 0, found = value;
  while (Math.abs(found) >= 1000 && step < STEPS.length - 1) { found /= 1000; step++; }
  const text = step === 0 ? (Number.isInteger(found) ? String(found) : found.toFixed(1)) : found.toFixed(found < 10 ? 2 : found < 100 ? 1 : 0);
  return `${text}${step || unit ? "\u202f" : ""}${STEPS[step]}${unit}`;
}

export const bits = (value: number | null | undefined): string => number(value, "b/s");
export const plural = (count: number, word: string): string => `${count} ${word}${count === 1 ? "" : "s"}`;

const MINUTES = { hour: "2-digit", minute: "2-digit", hourCycle: "h23" } as const; // 24 hours, as in the daemon's log

export function age(since: number | null | undefined, now = Date.now() / 1000): string {
  if (!since) return "–";
  const s = Math.max(0, now - since);
  if (s < 60) return `${Math.floor(s)} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min`;
  if (s < 172800) return `${Math.floor(s / 3600)} h`;
  return `${Math.floor(s / 86400)} days`;
}

export function clock(at: number | null | undefined): string {
  if (!at) return "–";
  const date = new Date(at * 1000), today = new Date().toDateString() === date.toDateString();
  return date.toLocaleString(undefined, { ...(today ? { second: "2-digit" } : { month: "short", day: "numeric" }), ...MINUTES });
}

/** The time of day with seconds, or without. */
export function timeOfDay(at: number, seconds: boolean): string {
  return new Date(at * 1000).toLocaleTimeString(undefined, { ...MINUTES, ...(seconds ? { second: "2-digit" } : {}) });
}
