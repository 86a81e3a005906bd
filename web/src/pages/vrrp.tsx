import { useState } from "preact/hooks";
import type { Vrrp } from "../api";
import { age } from "../format";
import { useLive, useView } from "../live";
import { RouterActions, tell, useMayOperate } from "../operations";
import { post } from "../api";
import { Badge, Card, Confirm, Empty, Loading, Table } from "../ui";
import { RouterState } from "./overview";

interface Peer { peer: Record<string, unknown> | null }

export function VrrpPage() {
  const { data, error } = useView<Vrrp>("vrrp");
  if (error) return <Card title="Virtual routers"><p class="error" role="alert">{error}</p></Card>;
  if (!data) return <Loading />;
  return (
    <>
      <Card title="Who holds which address" wide>
        {data.problem && <p><Badge tone="bad">{data.problem}</Badge></p>}
        {data.holders.length === 0 ? <Empty>No virtual router is configured.</Empty> : (
          <Table caption="Holders of addresses" rows={data.holders} name={(each) => `${each.router} ${each.address}`} columns={[
            { title: "Address", cell: (each) => each.address },
            { title: "Held by", cell: (each) => each.here ? <Badge tone="good">this director</Badge> : <Badge tone={each.master ? "calm" : "warn"}>{each.master || "nobody that is heard"}</Badge> },
            { title: "Virtual router", cell: (each) => each.router },
          ]} />
        )}
      </Card>
      {data.instances.length > 0 && (
        <Card title="Virtual routers" wide>
          <Table caption="Virtual routers" rows={data.instances} name={(each) => each.name} columns={[
            { title: "Name", cell: (each) => each.name },
            { title: "State", cell: (each) => <RouterState state={each.state} /> },
            { title: "Since", cell: (each) => age(each.since) },
            { title: "Priority", number: true, cell: (each) => each.priority },
            { title: "Interface", minor: true, cell: (each) => each.interface ?? "–" },
            { title: "Master", minor: true, cell: (each) => each.master || "–" },
            { title: "Because", cell: (each) => each.why || "–" },
            { title: "Actions", cell: (each) => <RouterActions name={each.name} state={each.state} /> },
          ]} />
        </Card>
      )}
      {data.sessions.length > 0 && (
        <Card title="BFD">
          <ul class="rows">{data.sessions.map((each) => <li key={each.name + each.neighbor}><strong>{each.name}</strong> {each.neighbor} <Badge tone={each.up ? "good" : "bad"}>{each.state}</Badge></li>)}</ul>
        </Card>
      )}
    </>
  );
}

export function PeerPage() {
  const { data, error } = useView<Peer>("peer"), may = useMayOperate(), { daemon } = useLive(), [asked, ask] = useState(false);
  if (error) return <Card title="Other director"><p class="error" role="alert">{error}</p></Card>;
  if (!data) return <Loading />;
  return (
    <Card title="Other director" aside={may && data.peer && daemon ? <button type="button" onClick={() => ask(true)}>Copy connections</button> : undefined} wide>
      {!data.peer ? <Empty>None is configured: peer_director in the configuration names it.</Empty> : (
        <dl class="facts">{Object.entries(data.peer).map(([name, value]) => <div key={name}><dt>{name.replaceAll("_", " ")}</dt><dd>{typeof value === "object" ? JSON.stringify(value) : String(value)}</dd></div>)}</dl>
      )}
      {asked && (
        <Confirm title="Copy connections" button="Copy" close={(done) => { ask(false); if (done) tell(done); }} act={() => post("peer-copy", {}).then(() => "The copy has begun.")}>
          <p>This director asks the other one for its whole table. What is here stays.</p>
        </Confirm>
      )}
    </Card>
  );
}
