/** What the server of the page answers, and how it is asked. URLs are relative to the page. */

export interface Session { who: string; role: "operate" | "read" | ""; until: number | null; needs_token: boolean; version: string; secure: boolean; operations: boolean }
export interface Rates { connections: number; in_packets: number; out_packets: number; in_bits: number; out_bits: number }
export interface Problem { kind: string; severity: string; object: string; text: string }
export interface Router { name: string; state: string; since: number; priority: number; why: string; interface?: string; addresses?: string[]; master?: string; yielded_until?: number | null; counters?: Record<string, unknown> }
export interface BfdSession { name: string; neighbor: string; state: string; up: boolean }
export interface Overview {
  at: number; period_s: number; ready: boolean; name: string;
  services: { total: number; down: number }; servers: { total: number; up: number; drained: number; disabled: number };
  rates: Rates; active: number; inactive: number; problems: Problem[]; problems_total: number;
  routers: Router[]; sessions: BfdSession[]; drains: number; differs: string[]; unknown: string[];
}
export interface Service {
  name: string; keys: string[]; up: boolean; since: number | null; quorum: number; weight_up: number; servers_total: number; servers_up: number;
  sorry: string | null; sorry_in: boolean; suspended: boolean; handshakes_low: string; rates: Rates; active: number; inactive: number; scheduler: string;
}
export interface Check { check: string; good: boolean | null; failures: number; weight: number | null; reason: string; checked_at: number | null; took_s: number | null; next_in_s: number | null; inconclusive: boolean; probes: number; failed_probes: number }
export interface ClientRule { service: string; rule: string; prefix: string; origin: "file" | "operator" | "other" }
export interface ClientRules { total: number; start: number; rules: ClientRule[] }
export interface Drain { number: number; servers: { service: string; server: string }[]; began_at: number; deadline_at: number | null; stage: string; active: number; inactive: number }
export interface Server {
  service: string; server: string; up: boolean; checked: boolean; since: number | null; reason: string; weight: number; configured_weight: number;
  standing: "enabled" | "drained" | "disabled"; operator_weight: number | null; in_table: boolean; active: number; inactive: number; persistent: number;
  rates: Rates; latency_ms: number | null; checks: Check[]; checks_left_out: string[];
  handshakes: { begun: number; completed: number; low: string; out: boolean } | null; method: string; drain: Drain | null;
}
export interface Services { total: number; matched: number; at: number; services: Service[] }
export interface Servers { total: number; matched: number; at: number; servers: Server[] }
export interface ServiceDetail extends Service { servers: Server[]; servers_matched: number; at: number }
export interface History { step_s: number; t: number[]; series: Record<string, (number | null)[]>; kept: string }
export interface Vrrp { problem: string; instances: Router[]; groups: { name: string; state: string; members: string[] }[]; sessions: BfdSession[]; holders: { address: string; router: string; here: boolean; master: string }[] }
export interface Topology {
  director: { name: string; devices: { name: string; mode: string }[] }; routers: Router[];
  services: { name: string; keys: string[]; up: boolean; servers: number[]; method: string }[];
  servers: { server: string; up: boolean; weight: number }[]; left_off: number;
}
export interface Finding { file: string; line: number; column: number; severity: string; text: string; advice: string }
export interface Block { block: string; head?: string; values?: { name: string; value: unknown; how: string }[]; lines?: string[]; blocks?: Block[] }
export interface Configuration { files: string[]; file?: string; loaded_at: number | null; errors: string[]; findings: Finding[]; effective?: Block; differs: string[] }
export interface DoctorFinding { id: string; severity: string; title: string; evidence: string; why: string; fix: string; fix_command: string | null; fix_host: string | null }
export interface Doctor { running: boolean; at: number | null; by: string; report: { findings: DoctorFinding[] } | null; error: string }
export interface DaemonEvent { event: string; at: number; level?: string; [field: string]: unknown }
export interface Daemon { connected: boolean; problem: string; version: string; older: string }

/** An answer with an error; `status` 0: there was no answer. */
export class Refused extends Error {
  constructor(message: string, readonly status: number, readonly findings: Finding[] = []) { super(message); }
}

export type Parameters = Record<string, string | number | boolean | undefined>;

export function query(parameters: Parameters): string {
  const found = new URLSearchParams();
  for (const [name, value] of Object.entries(parameters)) if (value !== undefined && value !== "") found.set(name, String(value));
  const text = found.toString();
  return text ? `?${text}` : "";
}

let expired: () => void = () => undefined;
export function onExpired(call: () => void): void { expired = call; }

const ANSWER_MS = 30_000, LONG_MS = 620_000; // longer than the server itself waits, which then says why
const SLOW = ["reload", "check-now"];

async function answer<T>(path: string, init: RequestInit): Promise<T> {
  const limit = SLOW.includes(path) ? LONG_MS : ANSWER_MS;
  let reply: Response;
  try {
    reply = await fetch(`api/v1/${path}`, { credentials: "same-origin", signal: AbortSignal.timeout(limit), ...init });
  } catch (error) {
    const late = error instanceof DOMException && error.name === "TimeoutError";
    throw new Refused(late ? `No answer within ${limit / 1000} s. Look at the events: it may have been done.` : "The page's server does not answer.", 0);
  }
  const body = await reply.json().catch(() => ({}));
  if (reply.ok) return body as T;
  if (reply.status === 401 && path !== "login") expired();
  throw new Refused(String(body.error ?? `error ${reply.status}`), reply.status, body.findings ?? []);
}

export function get<T>(name: string, parameters: Parameters = {}): Promise<T> {
  return answer<T>(name + query(parameters), {});
}

export function post<T>(name: string, body: object): Promise<T> {
  return answer<T>(name, { method: "POST", headers: { "Content-Type": "application/json", "X-Pylvs": "1" }, body: JSON.stringify(body) });
}
