import { useEffect, useState } from "preact/hooks";
import { get, type DaemonEvent, type ServiceDetail } from "../api";
import { age, bits, clock, number } from "../format";
import { useView } from "../live";
import { link, type Query } from "../route";
import { ServerActions } from "../operations";
import { Badge, Card, Chart, Empty, Loading, Table } from "../ui";
import { Events } from "./events";
import { Range, useHistory } from "./overview";
import { health, Weight } from "./services";

export function ServerPage({ query }: { query: Query }) {
  const service = query.service ?? "", name = query.server ?? "";
  const [fine, set] = useState(false), history = useHistory(service, name, fine);
  const { data, error } = useView<ServiceDetail>("service", { name: service, filter: name, limit: 20 });
  const [events, keep] = useState<DaemonEvent[]>([]);
  useEffect(() => { void get<{ events: DaemonEvent[] }>("server-history", { server: name, service }).then(({ events }) => keep(events)).catch(() => undefined); }, [name, service]);
  if (error) return <Card title={name}><p class="error" role="alert">{error}</p></Card>;
  const server = data?.servers.find((each) => each.server === name);
  if (!data) return <Loading />;
  if (!server) return <Card title={name}><Empty>The service has no such server any more.</Empty></Card>;
  const [tone, text] = health(server);
  return (
    <>
      <Card title={server.server} aside={<ServerActions server={server} />} wide>
        <dl class="facts">
          <div><dt>State</dt><dd><Badge tone={tone}>{text}</Badge> {server.since && <span class="muted">for {age(server.since)}</span>}{!server.up && server.reason && <div class="where">{server.reason}</div>}{server.handshakes?.low && <div class="where">{server.handshakes.low}</div>}</dd></div>
          <div><dt>Service</dt><dd><a href={link("service", { name: service })}>{service}</a></dd></div>
          <div><dt>Weight</dt><dd><Weight server={server} /></dd></div>
          <div><dt>Method</dt><dd>{server.method || "–"}</dd></div>
          <div><dt>New</dt><dd>{number(server.rates.connections)} a second</dd></div>
          <div><dt>Active, inactive</dt><dd>{number(server.active)}, {number(server.inactive)}</dd></div>
          <div><dt>In, out</dt><dd>{bits(server.rates.in_bits)}, {bits(server.rates.out_bits)}</dd></div>
          <div><dt>Slowest check</dt><dd>{server.latency_ms === null ? "–" : `${server.latency_ms.toFixed(1)} ms`}</dd></div>
        </dl>
        {server.drain && <p><Badge tone="calm">drain {server.drain.stage}: {server.drain.active} active connections{server.drain.deadline_at ? `, deadline ${clock(server.drain.deadline_at)}` : ""}</Badge></p>}
        {server.handshakes && <p class="muted">Handshakes of the last minute: {server.handshakes.completed} of {server.handshakes.begun} completed.</p>}
      </Card>
      <Card title="Checks" wide>
        {server.checks.length === 0 ? <Empty>None is configured: the server is taken as up.</Empty> : (
          <Table caption="Checks" rows={server.checks} name={(each, at) => `${at} ${each.check}`} columns={[
            { title: "Check", cell: (each) => each.check },
            { title: "State", cell: (each) => <Badge tone={each.good === null ? "calm" : each.good ? "good" : "bad"}>{each.good === null ? "no result yet" : each.good ? "good" : "bad"}</Badge> },
            { title: "Reason", cell: (each) => each.reason || "–" },
            { title: "Took", number: true, wide: true, cell: (each) => each.took_s === null ? "–" : `${(each.took_s * 1000).toFixed(1)} ms` },
            { title: "Last", cell: (each) => clock(each.checked_at) },
            { title: "Failed", number: true, wide: true, cell: (each) => `${each.failed_probes} of ${each.probes}` },
          ]} />
        )}
        {server.checks_left_out.map((each) => <p key={each} class="muted">{each}</p>)}
      </Card>
      <Card title="History" aside={<Range fine={fine} set={set} />} wide>
        {!history ? <Loading /> : history.kept ? <Empty>{history.kept}</Empty> : (
          <div class="charts">
            <Chart title="Connections a second" times={history.t} lines={[{ title: "new", values: history.series.connections ?? [], colour: "--a", text: number }]} />
            <Chart title="Bits a second" times={history.t} lines={[{ title: "in", values: history.series.in_bits ?? [], colour: "--a", text: bits }, { title: "out", values: history.series.out_bits ?? [], colour: "--b", text: bits }]} />
            <Chart title="Duration of the slowest check" times={history.t} lines={[{ title: "check", values: history.series.latency_ms ?? [], colour: "--c", text: (each) => (each === null ? "–" : `${each.toFixed(1)} ms`) }]} />
            <Chart title="Weight" whole times={history.t} lines={[{ title: "weight", values: history.series.weight ?? [], colour: "--b", text: number }]} />
          </div>
        )}
      </Card>
      <Card title="What happened to it" wide>{events.length ? <Events events={[...events].reverse()} /> : <Empty>Nothing since the daemon's start.</Empty>}</Card>
    </>
  );
}
