import { useEffect, useState } from "preact/hooks";
import { get, type History, type Services } from "../api";
import { age, bits, number, plural } from "../format";
import { useLive, useView } from "../live";
import { Badge, Card, Chart, Empty, Loading, severity, Spark } from "../ui";
import { EventList } from "./events";
import { ServiceTable } from "./services";

export function Overview() {
  const { overview, trail } = useLive();
  const { data } = useView<Services>("services", { limit: 8, sort: "down" });
  if (!overview) return <Loading />;
  const { rates, services, servers } = overview;
  return (
    <>
      <Verdict />
      <div class="tiles">
        <Tile title="Connections a second" value={number(rates.connections)} values={trail.map((each) => each.connections)} />
        <Tile title="To servers" value={bits(rates.in_bits)} values={trail.map((each) => each.in_bits)} />
        <Tile title="To clients" value={bits(rates.out_bits)} values={trail.map((each) => each.out_bits)} note={rates.out_bits ? "" : "direct routing: answers do not pass here"} />
        <Tile title="Active connections" value={number(overview.active)} values={trail.map((each) => each.active)} note={`${number(overview.inactive)} inactive`} />
      </div>
      <Traffic />
      <Card title="Services" aside={<a href="#/services">{plural(services.total, "service")}, {servers.up} of {plural(servers.total, "server")} up</a>}>
        {data ? data.services.length ? <ServiceTable services={data.services} /> : <Empty>No service is configured.</Empty> : <Loading />}
      </Card>
      <div class="grid">
        <Card title="Latest events" aside={<a href="#/events">all</a>}><EventList most={8} /></Card>
        <Card title="Virtual routers" aside={<a href="#/vrrp">all</a>}>
          {overview.routers.length === 0 && overview.sessions.length === 0 && <Empty>None is configured.</Empty>}
          <ul class="rows">
            {overview.routers.map((each) => <li key={each.name}><strong>{each.name}</strong> <RouterState state={each.state} /> <span class="muted">for {age(each.since)}</span></li>)}
            {overview.sessions.map((each) => <li key={each.name + each.neighbor}><strong>BFD {each.neighbor}</strong> <Badge tone={each.up ? "good" : "bad"}>{each.state}</Badge></li>)}
          </ul>
        </Card>
      </div>
    </>
  );
}

export function RouterState({ state }: { state: string }) {
  return <Badge tone={state === "MASTER" ? "good" : state === "FAULT" ? "bad" : "calm"}>{state}</Badge>;
}

function Tile({ title, value, values, note }: { title: string; value: string; values: number[]; note?: string }) {
  return (
    <section class="tile" aria-label={title}>
      <h2>{title}</h2><p class="big">{value}</p>
      {note && <p class="note">{note}</p>}
      <Spark values={values} label={`${title}, the last ${values.length} samples`} />
    </section>
  );
}

/** What is wrong, or that nothing is. */
function Verdict() {
  const { overview } = useLive();
  if (!overview) return null;
  const { services, servers, problems, differs, unknown } = overview;
  const down = servers.total - servers.up;
  const lines = [
    ...(services.down ? [{ tone: "bad" as const, text: `${plural(services.down, "service")} without enough servers`, link: "#/services?sort=down" }] : []),
    ...problems.map((each) => ({ tone: severity(each.severity), text: `${each.object ? `${each.object}: ` : ""}${each.text}`, link: "" })),
    ...(down ? [{ tone: "warn" as const, text: `${plural(down, "server")} down`, link: "#/servers?sort=down" }] : []),
    ...differs.map((each) => ({ tone: "warn" as const, text: `differs from the configuration: ${each}`, link: "#/configuration" })),
    ...unknown.map((each) => ({ tone: "calm" as const, text: `not in the configuration: ${each}`, link: "" })),
  ];
  const order = { bad: 0, warn: 1, calm: 2, good: 3 };
  lines.sort((one, other) => order[one.tone] - order[other.tone]);
  const worst = lines[0]?.tone ?? "good";
  return (
    <section class={`verdict ${worst}`} aria-label="State">
      <h2><Badge tone={worst}>{worst === "good" || worst === "calm" ? "All is well" : worst === "bad" ? "Clients are affected" : "Look at this"}</Badge></h2>
      {lines.length === 0 && <p>{servers.total ? `All ${plural(servers.total, "server")} answer their checks.` : "Nothing is configured yet."}</p>}
      <ul>
        {lines.slice(0, 6).map((each, at) => <li key={at}><Badge tone={each.tone}>{each.link ? <a href={each.link}>{each.text}</a> : each.text}</Badge></li>)}
        {lines.length > 6 && <li class="muted">{lines.length - 6 + overview.problems_total - problems.length} more</li>}
      </ul>
    </section>
  );
}

export function useHistory(service: string | undefined, server: string | undefined, fine: boolean): History | null {
  const [history, set] = useState<History | null>(null);
  useEffect(() => {
    let alive = true;
    const load = () => void get<History>("history", { service, server, resolution: fine ? "fine" : "coarse" }).then((found) => alive && set(found)).catch(() => undefined);
    set(null);
    load();
    const timer = window.setInterval(load, fine ? 2000 : 10000);
    return () => { alive = false; window.clearInterval(timer); };
  }, [service, server, fine]);
  return history;
}

export function Range({ fine, set }: { fine: boolean; set: (fine: boolean) => void }) {
  return (
    <span class="segments" role="group" aria-label="Time shown">
      <button type="button" aria-pressed={fine} onClick={() => set(true)}>10 minutes</button>
      <button type="button" aria-pressed={!fine} onClick={() => set(false)}>6 hours</button>
    </span>
  );
}

function Traffic() {
  const [fine, set] = useState(true), history = useHistory(undefined, undefined, fine);
  return (
    <Card title="Traffic" aside={<Range fine={fine} set={set} />}>
      {!history ? <Loading /> : (
        <div class="charts">
          <Chart title="Connections a second" times={history.t} lines={[{ title: "new", values: history.series.connections ?? [], colour: "--a", text: number }]} />
          <Chart title="Bits a second" times={history.t} lines={[
            { title: "to servers", values: history.series.in_bits ?? [], colour: "--a", text: bits },
            { title: "to clients", values: history.series.out_bits ?? [], colour: "--b", text: bits }]} />
        </div>
      )}
    </Card>
  );
}
