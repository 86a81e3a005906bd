import { useState } from "preact/hooks";
import type { Server, Service, ServiceDetail, Servers, Services } from "../api";
import { age, bits, number, plural } from "../format";
import { useView } from "../live";
import { go, link, type Query } from "../route";
import { ServerActions } from "../operations";
import { Badge, Card, Chart, Empty, Endpoint, Filter, Loading, Pager, Table, type Column, type Tone } from "../ui";
import { Range, useHistory } from "./overview";
import { ClientRulesCard } from "./rules";

const SIZE = 100;

function standing(service: Service): [Tone, string] {
  if (!service.up) return ["bad", service.sorry_in ? "down, sorry server" : "down"];
  if (service.servers_up < service.servers_total) return ["warn", "partly up"];
  return ["good", "up"];
}

export function ServiceTable({ services }: { services: Service[] }) {
  const columns: Column<Service>[] = [
    { title: "Service", cell: (each) => <a href={link("service", { name: each.name })}><Endpoint text={each.name} /></a> },
    { title: "State", cell: (each) => { const [tone, text] = standing(each); return <Badge tone={tone}>{text}</Badge>; } },
    { title: "Servers", number: true, cell: (each) => `${each.servers_up} / ${each.servers_total}` },
    { title: "Conn/s", number: true, cell: (each) => number(each.rates.connections) },
    { title: "In", number: true, wide: true, cell: (each) => bits(each.rates.in_bits) },
    { title: "Out", number: true, minor: true, cell: (each) => bits(each.rates.out_bits) },
    { title: "Active", number: true, wide: true, cell: (each) => number(each.active) },
    { title: "Inactive", number: true, minor: true, cell: (each) => number(each.inactive) },
    { title: "Scheduler", minor: true, cell: (each) => each.scheduler },
  ];
  return <Table caption="Services" columns={columns} rows={services} name={(each) => each.name} />;
}

export function ServicesPage({ query }: { query: Query }) {
  const at = Number(query.at ?? 0), sort = query.sort ?? "name", filter = query.filter ?? "";
  const { data, error } = useView<Services>("services", { at, limit: SIZE, sort, filter });
  const to = (part: Query) => go("services", { ...query, at: undefined, ...part });
  return (
    <Card title={data ? plural(data.total, "service") : "Services"} aside={<Filter value={filter} set={(filter) => to({ filter })} sort={sort} setSort={(sort) => to({ sort })} sorts={{ name: "by name", traffic: "most traffic", down: "down first" }} />} wide>
      {error && <p class="error" role="alert">{error}</p>}
      {!data ? <Loading /> : data.services.length === 0 ? <Empty>{filter ? "None matches." : "No service is configured."}</Empty> : <ServiceTable services={data.services} />}
      {data && <Pager at={at} size={SIZE} matched={data.matched} go={(at) => to({ at: String(at) })} />}
    </Card>
  );
}

export function Weight({ server }: { server: Server }) {
  return server.weight === server.configured_weight ? <>{server.weight}</> : <>{server.weight} <span class="muted">of {server.configured_weight}</span></>;
}

export function health(server: Server): [Tone, string] {
  if (server.standing === "disabled") return ["calm", "disabled"];
  if (server.standing === "drained" || server.drain) return ["calm", "drained"];
  if (!server.checked) return ["calm", "not checked yet"];
  return server.up ? ["good", "up"] : ["bad", "down"];
}

export function ServerTable({ servers, withService }: { servers: Server[]; withService?: boolean }) {
  const columns: Column<Server>[] = [
    { title: "Server", cell: (each) => <a href={link("server", { server: each.server, service: each.service })}><Endpoint text={each.server} /></a> },
    ...(withService ? [{ title: "Service", cell: (each: Server) => <a href={link("service", { name: each.service })}><Endpoint text={each.service} /></a> }] : []),
    { title: "State", cell: (each) => { const [tone, text] = health(each); return <><Badge tone={tone}>{text}</Badge>{!each.up && each.reason && <div class="where">{each.reason}</div>}{each.handshakes?.low && <div class="where">{each.handshakes.low}</div>}</>; } },
    { title: "Weight", number: true, wide: true, cell: (each) => <Weight server={each} /> },
    { title: "Conn/s", number: true, wide: withService, cell: (each) => number(each.rates.connections) },
    { title: "In", number: true, wide: true, cell: (each) => bits(each.rates.in_bits) },
    { title: "Out", number: true, minor: true, cell: (each) => bits(each.rates.out_bits) },
    { title: "Active", number: true, wide: withService, cell: (each) => number(each.active) },
    ...(withService ? [] : [{ title: "Inactive", number: true, minor: true, cell: (each: Server) => number(each.inactive) }]),
    { title: "Check", number: true, minor: true, cell: (each) => each.latency_ms === null ? "–" : `${each.latency_ms.toFixed(1)} ms` },
    ...(withService ? [] : [{ title: "Method", minor: true, cell: (each: Server) => each.method }]),
    { title: "Actions", minor: true, cell: (each) => <ServerActions server={each} /> }, // a phone has them on the server's page
  ];
  return <Table caption="Servers" columns={columns} rows={servers} name={(each) => `${each.service} ${each.server}`} />;
}

export function ServersPage({ query }: { query: Query }) {
  const at = Number(query.at ?? 0), sort = query.sort ?? "name", filter = query.filter ?? "";
  const { data, error } = useView<Servers>("servers", { at, limit: SIZE, sort, filter });
  const to = (part: Query) => go("servers", { ...query, at: undefined, ...part });
  return (
    <Card title={data ? plural(data.total, "server") : "Servers"} aside={<Filter value={filter} set={(filter) => to({ filter })} sort={sort} setSort={(sort) => to({ sort })} sorts={{ name: "by name", traffic: "most traffic", down: "down first", latency: "slowest checks" }} />} wide>
      {error && <p class="error" role="alert">{error}</p>}
      {!data ? <Loading /> : data.servers.length === 0 ? <Empty>{filter ? "None matches." : "No server is configured."}</Empty> : <ServerTable servers={data.servers} withService />}
      {data && <Pager at={at} size={SIZE} matched={data.matched} go={(at) => to({ at: String(at) })} />}
    </Card>
  );
}

export function ServicePage({ query }: { query: Query }) {
  const name = query.name ?? "", at = Number(query.at ?? 0);
  const [fine, set] = useState(true), history = useHistory(name, undefined, fine);
  const { data, error } = useView<ServiceDetail>("service", { name, at, limit: SIZE });
  if (error) return <Card title={name}><p class="error" role="alert">{error}</p></Card>;
  if (!data || data.name !== name) return <Loading />;
  const [tone, text] = standing(data);
  return (
    <>
      <Card title={data.name} aside={<Badge tone={tone}>{text}</Badge>} wide>
        <dl class="facts">
          <div><dt>Addresses</dt><dd>{data.keys.join(", ")}</dd></div>
          <div><dt>Servers up</dt><dd>{data.servers_up} of {data.servers_total}</dd></div>
          <div><dt>Weight, quorum</dt><dd>{data.weight_up}, {data.quorum}</dd></div>
          <div><dt>Scheduler</dt><dd>{data.scheduler || "–"}</dd></div>
          <div><dt>Since</dt><dd>{age(data.since)}</dd></div>
          <div><dt>Sorry server</dt><dd>{data.sorry ?? "none"}{data.sorry_in && " (serves now)"}</dd></div>
          <div><dt>New</dt><dd>{number(data.rates.connections)} a second</dd></div>
          <div><dt>Active, inactive</dt><dd>{number(data.active)}, {number(data.inactive)}</dd></div>
        </dl>
        {data.handshakes_low && <p><Badge tone="warn">{data.handshakes_low}</Badge></p>}
      </Card>
      <Card title="History" aside={<Range fine={fine} set={set} />} wide>
        {!history ? <Loading /> : history.kept ? <Empty>{history.kept}</Empty> : (
          <div class="charts">
            <Chart title="Connections a second" times={history.t} lines={[{ title: "new", values: history.series.connections ?? [], colour: "--a", text: number }]} />
            <Chart title="Bits a second" times={history.t} lines={[{ title: "to servers", values: history.series.in_bits ?? [], colour: "--a", text: bits }, { title: "to clients", values: history.series.out_bits ?? [], colour: "--b", text: bits }]} />
            <Chart title="Connections" times={history.t} lines={[{ title: "active", values: history.series.active ?? [], colour: "--a", text: number }, { title: "inactive", values: history.series.inactive ?? [], colour: "--b", text: number }]} />
            <Chart title="Servers up, and their weight" whole times={history.t} lines={[{ title: "servers", values: history.series.servers_up ?? [], colour: "--c", text: number }, { title: "weight", values: history.series.weight_up ?? [], colour: "--b", text: number }]} />
          </div>
        )}
      </Card>
      <Card title="Servers" wide>
        <ServerTable servers={data.servers} />
        <Pager at={at} size={SIZE} matched={data.servers_matched} go={(at) => go("service", { ...query, at: String(at) })} />
      </Card>
      <ClientRulesCard key={name} service={name} keys={data.keys} />
    </>
  );
}
