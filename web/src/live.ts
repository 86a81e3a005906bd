/** The page's one stream of server-sent events, and what came last by it. */

import { useEffect, useState } from "preact/hooks";
import { get, query, type Daemon, type DaemonEvent, type Overview, type Parameters, type Session } from "./api";

export interface Live {
  session: Session | null; online: boolean; updating: boolean; refusal: string; daemon: Daemon | null; overview: Overview | null;
  view: unknown; viewName: string; viewError: string; events: DaemonEvent[]; missed: number; trail: { t: number; connections: number; in_bits: number; out_bits: number; active: number }[];
}

const KEPT_EVENTS = 500, KEPT_SAMPLES = 600, RETRY_MS = 2000;
const SILENT_MS = 25_000, LOOK_MS = 5_000; // the server sends something each 10 s; a network may lose a connection without a word
let state: Live = { session: null, online: false, updating: false, refusal: "", daemon: null, overview: null, view: null, viewName: "", viewError: "", events: [], missed: 0, trail: [] };
const listeners = new Set<() => void>();
let source: EventSource | null = null, wanted = "", retry = 0, heard = 0;
let greeted = true; // the last stream began

function change(part: Partial<Live>): void {
  state = { ...state, ...part };
  for (const each of listeners) each();
}

export function useLive(): Live {
  const [, again] = useState(0);
  useEffect(() => {
    const each = () => again((n) => n + 1);
    listeners.add(each);
    return () => void listeners.delete(each);
  }, []);
  return state;
}

export function setSession(session: Session | null): void {
  change({ session, refusal: "" });
  if (session?.role) open();
  else close();
}

/** Keep why a token was refused, for who signs in next. */
export function setRefusal(refusal: string): void { change({ refusal }); }

function close(): void {
  window.clearTimeout(retry);
  source?.close();
  source = null;
}

function later(call: () => void): void {
  window.clearTimeout(retry);
  retry = window.setTimeout(call, RETRY_MS);
}

/** Ask who this page is: the stream ended, and it does not say why. */
async function ask(): Promise<void> {
  try {
    const session = await get<Session>("session");
    change({ session });
    if (!session.role || source) return;
    if (greeted) open();
    else later(open); // the server or a proxy refuses the stream: ask seldom
  } catch {
    change({ online: false });
    later(() => void ask());
  }
}

function open(): void {
  close();
  if (document.visibilityState === "hidden") return; // `resume` opens it
  heard = Date.now();
  greeted = false;
  const fresh = new EventSource(`api/v1/live${wanted}`);
  source = fresh;
  let replayed: DaemonEvent[] | null = [];
  const on = <T>(name: string, take: (data: T) => void) =>
    fresh.addEventListener(name, (event) => {
      if (source !== fresh) return;
      heard = Date.now();
      take(JSON.parse((event as MessageEvent<string>).data) as T);
    });
  on<{ session: Session }>("hello", ({ session }) => { greeted = true; change({ session, online: true, missed: 0 }); });
  on("alive", () => change({ online: true, updating: false }));
  on<Daemon>("daemon", (daemon) => change({ daemon, ...(daemon.connected ? {} : { updating: false }) }));
  on<Overview>("overview", (overview) => {
    if (replayed) change({ events: replayed });
    replayed = null;
    const { connections, in_bits, out_bits } = overview.rates;
    const trail = [...state.trail, { t: overview.at, connections, in_bits, out_bits, active: overview.active }].slice(-KEPT_SAMPLES);
    change({ overview, trail, online: true, updating: false });
  });
  on<{ error?: string }>("view", (view) => change(view.error ? { viewError: view.error, viewName: wanted } : { view, viewError: "", viewName: wanted }));
  on<DaemonEvent>("event", (event) => (replayed ? replayed.push(event) : change({ events: [...state.events, event].slice(-KEPT_EVENTS) })));
  on<{ count: number }>("missed", ({ count }) => change({ missed: state.missed + count }));
  on<{ reason: string }>("bye", ({ reason }) => { close(); change({ refusal: reason }); void ask(); });
  fresh.onerror = () => {
    if (source !== fresh) return;
    change({ online: false });
    if (fresh.readyState === EventSource.CLOSED) { close(); void ask(); }
  };
}

/** Return what the server sends each second of one view; undefined until it has come. */
export function useView<T>(view: string, parameters: Parameters = {}): { data: T | undefined; error: string } {
  const name = query({ view, ...parameters });
  const live = useLive();
  useEffect(() => {
    const timer = window.setTimeout(() => {
      if (wanted === name && source) return;
      wanted = name;
      if (state.session?.role) open();
    }, wanted ? 120 : 0);
    return () => window.clearTimeout(timer);
  }, [name]);
  const [kept, keep] = useState<{ view: string; data: T }>();
  const fits = live.viewName === name;
  useEffect(() => { if (fits && live.view) keep({ view, data: live.view as T }); }, [fits, live.view]);
  return { data: fits && live.view && !live.viewError ? (live.view as T) : kept?.view === view ? kept.data : undefined, error: fits ? live.viewError : "" };
}

/** Browsers open six connections to a host, for all its pages together. So only a page that is seen has its stream.

 A page that one has left counts, too: the browser keeps it, with its connection, for the way back.
*/
function suspend(): void { close(); }

function resume(): void {
  if (document.visibilityState === "hidden" || source || !state.session?.role) return;
  change({ updating: true });
  open();
}

function look(): void {
  if (!source || Date.now() - heard < SILENT_MS) return;
  change({ online: false, updating: false });
  open();
}

document.addEventListener("visibilitychange", () => (document.visibilityState === "hidden" ? suspend() : resume()));
window.addEventListener("pagehide", suspend);
window.addEventListener("pageshow", resume);
window.setInterval(look, LOOK_MS);

export function start(): void { void ask(); }
