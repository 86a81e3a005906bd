import { useEffect, useRef, useState } from "preact/hooks";
import { get, post, query, Refused, type Configuration, type Doctor, type DoctorFinding, type Block, type Finding } from "../api";
import { clock, number, timeOfDay } from "../format";
import { useLive, useView } from "../live";
import { tell, useMayOperate } from "../operations";
import { Badge, Card, Confirm, Empty, Endpoint, Findings, Loading, severity, Table, type Tone } from "../ui";

// --- drops ---

interface Reason { reason: string; verdict: string; count: number; sentence: string; services?: { service: string; count: number }[] }
interface Device { device: string; received: number | null; forwarded: number; passed: number; dropped: number; held: number; difference: number | null }
interface Ends { tables: boolean; reasons?: Reason[]; devices?: Device[] }

const RATE_S = [4, 20] as const; // the reply is of at most 5 s ago
const VERDICTS: Record<string, Tone> = { dropped: "bad", rejected: "warn", held: "calm", passed: "calm", to_tc: "calm", note: "calm", forwarded: "good" };

/** How often each reason was counted a second, lately; undefined until that is known. */
function useRates(reasons: Reason[] | undefined): (reason: string, count: number) => number | undefined {
  const kept = useRef<{ at: number; counts: Map<string, number> }[]>([]);
  const now = Date.now() / 1000;
  useEffect(() => {
    if (!reasons) return;
    const fresh = { at: now, counts: new Map(reasons.map((each) => [each.reason, each.count])) };
    kept.current = [...kept.current.filter((each) => now - each.at < RATE_S[1]), fresh];
  }, [reasons]);
  return (reason, count) => {
    const first = kept.current[0];
    return first && now - first.at >= RATE_S[0] ? Math.max(0, count - (first.counts.get(reason) ?? 0)) / (now - first.at) : undefined;
  };
}

const ORDER = ["dropped", "rejected", "note", "held", "passed", "to_tc", "forwarded"];

export function DropsPage() {
  const { data, error } = useView<Ends>("drops"), rate = useRates(data?.reasons);
  const reasons = [...(data?.reasons ?? [])].sort((one, other) => ORDER.indexOf(one.verdict) - ORDER.indexOf(other.verdict) || other.count - one.count);
  const devices = data?.devices ?? [];
  return (
    <>
      <Card title="Why packets ended as they did" wide>
        {error && <p class="error" role="alert">{error}</p>}
        {!data ? (error ? null : <Loading />) : data.tables === false ? <Empty>There are no tables: no packet was judged.</Empty> : reasons.length === 0 ? <Empty>No packet was counted yet.</Empty> : (
          <Table<Reason> caption="Reasons" rows={reasons} name={(each) => each.reason} columns={[
            { title: "Reason", cell: (each) => <>{each.reason}<div class="where">{each.sentence}</div></> },
            { title: "Verdict", cell: (each) => <Badge tone={VERDICTS[each.verdict] ?? "calm"}>{each.verdict}</Badge> },
            { title: "Packets", number: true, cell: (each) => number(each.count) },
            { title: "A second", number: true, cell: (each) => { const found = rate(each.reason, each.count); return found === undefined ? "–" : number(Math.round(found * 10) / 10); } },
            { title: "Services", minor: true, cell: (each) => each.services?.length ? <ul>{each.services.slice(0, 3).map((one) => <li key={one.service}>{one.service}: {number(one.count)}</li>)}</ul> : "–" },
          ]} />
        )}
      </Card>
      {devices.length > 0 && (
        <Card title="By device" wide>
          <Table<Device> caption="Packets by device" rows={devices} name={(each) => each.device} columns={[
            { title: "Device", cell: (each) => each.device },
            { title: "Received", number: true, cell: (each) => number(each.received) },
            { title: "Forwarded", number: true, cell: (each) => number(each.forwarded) },
            { title: "Passed", number: true, wide: true, cell: (each) => number(each.passed) },
            { title: "Dropped", number: true, cell: (each) => number(each.dropped) },
            { title: "Held", number: true, wide: true, cell: (each) => number(each.held) },
            { title: "Not accounted for", number: true, minor: true, cell: (each) => number(each.difference) },
          ]} />
        </Card>
      )}
    </>
  );
}

// --- doctor ---

function Copy({ text }: { text: string }) {
  const [done, set] = useState(false);
  return <button type="button" onClick={() => void navigator.clipboard?.writeText(text).then(() => set(true))}>{done ? "Copied" : "Copy"}</button>;
}

function FindingCard({ finding }: { finding: DoctorFinding }) {
  return (
    <li class="finding">
      <h3><Badge tone={severity(finding.severity)}>{finding.title}</Badge></h3>
      <p>{finding.evidence}</p><p class="muted">{finding.why}</p><p>{finding.fix}</p>
      {finding.fix_command && <div class="command"><code>{finding.fix_host && finding.fix_host !== "here" ? `on ${finding.fix_host}: ` : ""}{finding.fix_command}</code><Copy text={finding.fix_command} /></div>}
    </li>
  );
}

export function DoctorPage() {
  const may = useMayOperate(), { data, error } = useView<Doctor>("doctor"), [asks, ask] = useState(false);
  const findings = data?.report?.findings ?? [];
  return (
    <Card title="Doctor" aside={may && <button type="button" class="primary" disabled={data?.running} onClick={() => ask(true)}>{data?.running ? "Examining …" : "Examine now"}</button>} wide>
      <p class="muted">It probes this director and its real servers for causes of silent failures, and changes nothing.</p>
      {(error || data?.error) && <p class="error" role="alert">{error || data?.error}</p>}
      {!data ? <Loading /> : !data.report ? <Empty>{data.running ? "The examination runs." : "It has not run yet."}</Empty> : (
        <div aria-live="polite">
          <p>{findings.length ? `${findings.length} found` : "Nothing is wrong"} at {clock(data.at)}{data.by && `, asked by ${data.by}`}</p>
          <ul class="findings">{findings.map((each, at) => <FindingCard key={at} finding={each} />)}</ul>
        </div>
      )}
      {asks && (
        <Confirm title="Examine this director" button="Examine" close={(done) => { ask(false); if (done) tell(done); }} act={() => post("doctor", {}).then(() => "The examination has begun.")}>
          <p>Root runs pylvs doctor here, for at most two minutes. It sends packets to virtual addresses and real servers. Nothing changes.</p>
        </Confirm>
      )}
    </Card>
  );
}

// --- configuration ---

function Tree({ block }: { block: Block }) {
  const values = block.values ?? [], blocks = block.blocks ?? [], lines = block.lines ?? [];
  const title = [block.block, block.head].filter(Boolean).join(" ") || "configuration";
  return (
    <details class="tree" open={blocks.length > 0 && blocks.length < 12}>
      <summary>{title}</summary>
      {lines.map((each, at) => <div key={at}><code>{each}</code></div>)}
      {values.length > 0 && <dl class="facts tight">{values.map((each, at) => <div key={at}><dt>{each.name}</dt><dd>{typeof each.value === "string" ? each.value : JSON.stringify(each.value)} <span class="muted">{each.how}</span></dd></div>)}</dl>}
      {blocks.map((each, at) => <Tree key={at} block={each} />)}
    </details>
  );
}

export function ConfigurationPage() {
  const may = useMayOperate(), [found, set] = useState<Configuration | null>(null), [error, fail] = useState("");
  const [preview, look] = useState<{ findings: Finding[]; differences: string[] } | null>(null), [asks, ask] = useState(false), [force, setForce] = useState(false);
  const load = () => void get<Configuration>("configuration").then((each) => { set(each); fail(""); }).catch((each: Error) => fail(each.message));
  useEffect(load, []);
  async function compare() {
    try {
      look(await get<{ findings: Finding[]; differences: string[] }>("reload-preview"));
      fail("");
    } catch (each) {
      look(null);
      fail(each instanceof Error ? each.message : String(each));
      if (each instanceof Refused && each.findings.length) look({ findings: each.findings, differences: [] });
    }
  }
  const reload = () => post("reload", force ? { force } : {}).then(() => "The configuration is reloaded.");
  return (
    <>
      <Card title="Configuration" aside={<><button type="button" onClick={() => void compare()}>What would a reload change?</button>{may && <button type="button" class="primary" onClick={() => { void compare(); ask(true); }}>Reload</button>}</>} wide>
        {error && <p class="error" role="alert">{error}</p>}
        {preview && (
          <div role="status">
            <h3>A reload</h3>
            {preview.differences.length === 0 && preview.findings.length === 0 && <p>changes nothing.</p>}
            <ul class="differences">{preview.differences.map((each, at) => <li key={at}><code>{each}</code></li>)}</ul>
            <Findings findings={preview.findings} />
          </div>
        )}
        {!found ? (error ? null : <Loading />) : (
          <>
            <p class="muted">{found.files.join(", ")}{found.loaded_at && `, loaded ${clock(found.loaded_at)}`}</p>
            {found.errors.map((each, at) => <p key={at}><Badge tone="bad">{each}</Badge></p>)}
            {found.differs.map((each, at) => <p key={at}><Badge tone="warn">differs: {each}</Badge></p>)}
          </>
        )}
      </Card>
      {found && <Card title="Findings" wide>{found.findings.length ? <Findings findings={found.findings} /> : <Empty>The file has none.</Empty>}</Card>}
      {found?.effective && <Card title="What is in force" wide><Tree block={found.effective} /></Card>}
      {asks && (
        <Confirm title="Reload the configuration" button="Reload" act={reload} close={(done) => { ask(false); if (done) { tell(done); look(null); load(); } }}>
          <p>The daemon reads its file again. A file with errors changes nothing. It would change:</p>
          {!preview ? <p class="muted">{error || "Comparing …"}</p> : preview.differences.length ? <ul class="differences">{preview.differences.map((each, at) => <li key={at}><code>{each}</code></li>)}</ul> : <p>nothing.</p>}
          <label class="check"><input type="checkbox" checked={force} onChange={(event) => setForce(event.currentTarget.checked)} /> Also if addresses or services are lost by it</label>
        </Confirm>
      )}
    </>
  );
}

// --- trace ---

interface Change { layer: string; field: string; kind: string; came: string; left: string }
interface Traced {
  number: number; time: number; hook: string; device: string; kind: string; source: string | null; destination: string | null; service: string | null; server: string | null;
  method: string | null; why: string | null; created: boolean; state: string | null; verdict: string; reason: string | null; output: string | null; changes: Change[];
}

/** A packet: how it came, what became of it and why, what was changed. */
function TracedPacket({ packet }: { packet: Traced }) {
  const { source, destination, service, server, method, output, why, state, created, reason } = packet;
  const about = [why, created && "it made a connection", state && `state ${state}`].filter(Boolean).join("; ");
  return (
    <li>
      <div><span class="muted">{packet.number} {timeOfDay(packet.time, true)}</span> {packet.kind} {source ?? "?"} → {destination ?? "?"} <span class="muted">by {packet.device} ({packet.hook})</span></div>
      <div><Badge tone={VERDICTS[packet.verdict] ?? "calm"}>{packet.verdict.replaceAll("_", " ")}</Badge>{server && ` to ${server}`}{method && ` (${method})`}{output && ` by ${output}`}{reason && `: ${reason.replaceAll("_", " ")}`}{service ? <span class="muted">, service {service}</span> : <span class="muted">, of no service</span>}</div>
      {about && <div>{about}</div>}
      {packet.changes.length > 0 && <div class="muted">{packet.changes.map((each) => `${each.layer} ${each.field} ${each.kind === "changed" ? `${each.came} → ${each.left}` : `${each.kind} ${each.left || each.came}`}`).join(", ")}</div>}
    </li>
  );
}

export function TracePage() {
  const may = useMayOperate(), [running, run] = useState(false), [records, set] = useState<Traced[]>([]), [end, finish] = useState("");
  const source = useRef<EventSource | null>(null);
  const [client, setClient] = useState(""), [vip, setVip] = useState(""), [port, setPort] = useState(""), [protocol, setProtocol] = useState("tcp");
  useEffect(() => {
    const leave = () => source.current && stop("stopped");
    window.addEventListener("pagehide", leave); // the browser may keep the page, and its connection
    return () => { window.removeEventListener("pagehide", leave); source.current?.close(); };
  }, []);
  function stop(why: string) { source.current?.close(); source.current = null; run(false); finish(why); }
  function begin(event: Event) {
    event.preventDefault();
    set([]); finish(""); run(true);
    const fresh = new EventSource(`api/v1/trace${query({ protocol, client, vip, vip_port: vip ? port : "", seconds: 30, count: 100 })}`);
    source.current = fresh;
    fresh.addEventListener("record", (each) => set((before) => [...before, JSON.parse((each as MessageEvent<string>).data) as Traced]));
    fresh.addEventListener("end", (each) => stop(String((JSON.parse((each as MessageEvent<string>).data) as { reason: string }).reason)));
    fresh.onerror = () => source.current === fresh && stop("The trace was refused: is another one running, and is the address right?");
  }
  return (
    <Card title="Trace a connection" wide>
      <p class="muted">Follows the packets of one client through the director for 30 seconds: which rule decided, which server took them, and what was changed.</p>
      {!may ? <Empty>It needs a token that may operate.</Empty> : (
        <form class="filter" onSubmit={begin}>
          <label>Client <input required value={client} placeholder="192.0.2.7" onInput={(each) => setClient(each.currentTarget.value.trim())} /></label>
          <label>Virtual address <input value={vip} placeholder="any" onInput={(each) => setVip(each.currentTarget.value.trim())} /></label>
          <label>Port <input value={port} inputMode="numeric" placeholder="any" size={6} onInput={(each) => setPort(each.currentTarget.value.trim())} /></label>
          <label>Protocol <select value={protocol} onChange={(each) => setProtocol(each.currentTarget.value)}><option>tcp</option><option>udp</option><option>sctp</option></select></label>
          {running ? <button type="button" onClick={() => stop("stopped")}>Stop</button> : <button type="submit" class="primary">Trace</button>}
        </form>
      )}
      <div aria-live="polite">
        {running && <p role="status" class="muted">Waiting for packets …</p>}
        {end && <p role="status">{end}</p>}
        {records.length > 0 && (
          <ol class="records">{records.map((each, at) => <TracedPacket key={at} packet={each} />)}</ol>
        )}
      </div>
    </Card>
  );
}

// --- problems ---

export function ProblemsPage() {
  const { overview } = useLive();
  const { data } = useView<{ problems: { kind: string; severity: string; object: string; text: string }[] }>("problems");
  const problems = data?.problems ?? overview?.problems ?? [];
  return (
    <Card title="Problems" wide>
      {problems.length === 0 ? <Empty>The daemon knows of none.</Empty> : (
        <Table caption="Problems" rows={problems} name={(each, at) => `${at} ${each.object}`} columns={[
          { title: "Severity", cell: (each) => <Badge tone={severity(each.severity)}>{each.severity}</Badge> },
          { title: "Kind", minor: true, cell: (each) => each.kind.replaceAll("_", " ") },
          { title: "Object", cell: (each) => <Endpoint text={each.object} /> },
          { title: "What is wrong", cell: (each) => each.text },
        ]} />
      )}
    </Card>
  );
}
