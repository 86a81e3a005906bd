/** What an operator may do, each after a dialog that says what will happen. */

import { Fragment, type ComponentChildren } from "preact";
import { useEffect, useState } from "preact/hooks";
import { post, type Parameters, type Server } from "./api";
import { useLive } from "./live";
import { Confirm } from "./ui";

let told: (text: string) => void = () => undefined;
export function onDone(call: (text: string) => void): void { told = call; }
/** Say at the page's edge that something was done. */
export function tell(text: string): void { told(text); }

export type Close = (done: string) => void;
type Make = (close: Close) => ComponentChildren;
let show: (make: Make) => void = () => undefined;
/** Open a dialog beside the page: a row that moves or leaves while it is open would close it, or make it non-modal. */
export function ask(make: Make): void { show(make); }

/** The place of the one dialog. */
export function Dialogs() {
  const [open, set] = useState<{ make: Make; number: number } | null>(null);
  useEffect(() => {
    let number = 0;
    show = (make) => set({ make, number: ++number });
    const leave = () => set(null);
    window.addEventListener("hashchange", leave);
    return () => window.removeEventListener("hashchange", leave);
  }, []);
  if (!open) return null;
  return <Fragment key={open.number}>{open.make((done) => { set(null); if (done) tell(done); })}</Fragment>;
}

export function useMayOperate(): boolean {
  const { session, daemon } = useLive();
  return session?.role === "operate" && session.operations && daemon?.connected !== false;
}

/** The buttons of a server. */
export function ServerActions({ server }: { server: Server }) {
  const may = useMayOperate();
  if (!may) return null;
  const name = { server: server.server, service: server.service };
  const isOut = server.standing !== "enabled";
  const enable = () => ask((close) => (
    <Confirm title={`Enable ${server.server}`} button="Enable" close={close} act={() => post("enable", name).then(() => `${server.server} is enabled.`)}>
      <p>New connections go to it again, as its weight and its checks say.</p>
    </Confirm>
  ));
  const disable = () => ask((close) => (
    <Confirm title={`Disable ${server.server}`} button="Disable" danger close={close} act={() => post("disable", name).then(() => `${server.server} is disabled.`)}>
      <p>It leaves the table of <q>{server.service}</q> at once. {server.active} active connections lose their server. Draining lets them end.</p>
    </Confirm>
  ));
  const check = () => ask((close) => (
    <Confirm title={`Check ${server.server} now`} button="Check" close={close} act={() => post("check-now", name).then(() => `${server.server} is being checked.`)}>
      <p>Its {server.checks.length || ""} checks run at once. Nothing else changes.</p>
    </Confirm>
  ));
  return (
    <span class="actions">
      {isOut
        ? <button type="button" onClick={enable}>Enable</button>
        : <button type="button" onClick={() => ask((close) => <DrainDialog name={name} server={server} close={close} />)}>Drain</button>}
      <button type="button" onClick={() => ask((close) => <WeightDialog name={name} server={server} close={close} />)}>Weight</button>
      <button type="button" onClick={check}>Check now</button>
      {server.standing !== "disabled" && <button type="button" onClick={disable}>Disable</button>}
    </span>
  );
}

type Dialog = { name: Parameters; server: Server; close: Close };

function DrainDialog({ name, server, close }: Dialog) {
  const [minutes, set] = useState("10"), [force, setForce] = useState(false);
  const act = () => post("drain", { ...name, deadline_s: minutes ? Number(minutes) * 60 : null, ...(minutes && force ? { force } : {}) }).then(() => `${server.server} is being drained.`);
  return (
    <Confirm title={`Drain ${server.server}`} button="Drain" close={close} act={act}>
      <p>It gets no new connections. Its {server.active} active connections, and clients of its {server.persistent} persistence entries, stay until they end.</p>
      <label class="field">Deadline
        <select value={minutes} onChange={(event) => set(event.currentTarget.value)}>
          <option value="">none</option><option value="1">1 minute</option><option value="10">10 minutes</option><option value="60">1 hour</option><option value="480">8 hours</option>
        </select>
      </label>
      {minutes && <label class="check"><input type="checkbox" checked={force} onChange={(event) => setForce(event.currentTarget.checked)} /> At the deadline, remove it with the connections that are left</label>}
    </Confirm>
  );
}

function WeightDialog({ name, server, close }: Dialog) {
  const [weight, set] = useState(String(server.weight)), [asConfigured, reset] = useState(false);
  const act = () => post("weight", { ...name, weight: asConfigured ? null : Number(weight) }).then(() => `${server.server} has ${asConfigured ? "its configured weight" : `weight ${weight}`}.`);
  return (
    <Confirm title={`Weight of ${server.server}`} button="Set weight" close={close} act={act}>
      <p>It has weight {server.weight}; the configuration says {server.configured_weight}. The operator's weight holds until it is set back, over reloads and restarts. Weight 0: no new connections.</p>
      <label class="field">Weight <input type="number" min={0} max={65535} required disabled={asConfigured} value={weight} onInput={(event) => set(event.currentTarget.value)} /></label>
      <label class="check"><input type="checkbox" checked={asConfigured} onChange={(event) => reset(event.currentTarget.checked)} /> As configured</label>
    </Confirm>
  );
}

/** Yield or resume a virtual router. */
export function RouterActions({ name, state }: { name: string; state: string }) {
  const may = useMayOperate();
  if (!may) return null;
  const resume = () => ask((close) => (
    <Confirm title={`Resume ${name}`} button="Resume" close={close} act={() => post("resume", { name }).then(() => `${name} takes part again.`)}>
      <p>It takes part in the election again. With the higher priority it takes its addresses back.</p>
    </Confirm>
  ));
  return (
    <span class="actions">
      {state === "MASTER"
        ? <button type="button" onClick={() => ask((close) => <YieldDialog name={name} close={close} />)}>Yield</button>
        : <button type="button" onClick={resume}>Resume</button>}
    </span>
  );
}

function YieldDialog({ name, close }: { name: string; close: Close }) {
  const [minutes, set] = useState("10");
  return (
    <Confirm title={`Yield ${name}`} button="Yield" danger close={close} act={() => post("yield", { name, seconds: Number(minutes) * 60 }).then(() => `${name} yields.`)}>
      <p>The other director takes its addresses. Without connection synchronization, clients' connections by NAT end.</p>
      <label class="field">For <select value={minutes} onChange={(event) => set(event.currentTarget.value)}><option value="1">1 minute</option><option value="10">10 minutes</option><option value="60">1 hour</option></select></label>
    </Confirm>
  );
}
