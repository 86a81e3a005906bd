import { useState } from "preact/hooks";
import type { Vrrp } from "../api";
import { age } from "../format";
import { useLive, useView } from "../live";
import { RouterActions, tell, useMayOperate } from "../operations";
import { post } from "../api";
import { Badge, Card, Confirm, Empty, Loading, Table } from "../ui";
import { RouterState } from "./overview";

interface Peer {
  address: string; name: string; version: string; connected: boolean; problem: string; complete: boolean; records: number; held: number; newer: number; age_s: number | null;
  refused: Record<string, number>; unknown: { server: string; connections: number }[]; other: { records: number | null; held: number | null } | null;
  differences: { object: string; text: string }[]; compared: boolean;
}

const share = (held: number | null, records: number | null): string => held === null || records === null ? "not known" : `${held.toLocaleString()} of ${records.toLocaleString()}`;

function PeerFacts({ peer }: { peer: Peer }) {
  const refused = Object.entries(peer.refused).filter(([, count]) => count > 0);
  return (
    <>
      <dl class="facts">
        <div><dt>Address</dt><dd>{peer.address}{peer.name && ` (${peer.name})`}</dd></div>
        <div><dt>State</dt><dd>{peer.connected ? <Badge tone={peer.complete ? "good" : "warn"}>{peer.complete ? "copied" : "copying"}</Badge> : <Badge tone="bad">not connected</Badge>}</dd></div>
        <div><dt>Behind it by</dt><dd>{peer.age_s === null ? "nothing was copied yet" : `${peer.age_s.toFixed(1)} s`}</dd></div>
        <div><dt>Version there</dt><dd>{peer.version || "–"}</dd></div>
        <div><dt>Connections from there</dt><dd>{share(peer.held, peer.records)}</dd></div>
        <div><dt>Known better here</dt><dd>{peer.newer.toLocaleString()}</dd></div>
        <div><dt>Connections from here</dt><dd>{peer.other ? share(peer.other.held, peer.other.records) : "it copies none"}</dd></div>
        <div><dt>Its configuration</dt><dd>{!peer.compared ? "not known" : peer.differences.length ? <Badge tone="warn">differs</Badge> : <Badge tone="good">the same</Badge>}</dd></div>
      </dl>
      {peer.problem && <p class="error">{peer.problem}</p>}
      {refused.length > 0 && <p><Badge tone="warn">refused: {refused.map(([why, count]) => `${why} (${count})`).join(", ")}</Badge></p>}
      {peer.unknown.map((each) => <p key={each.server}><Badge tone="warn">{each.server} is not here: {each.connections} connections cannot be copied</Badge></p>)}
      {peer.differences.map((each, at) => <p key={at}><Badge tone="warn">{each.object}: {each.text}</Badge></p>)}
    </>
  );
}

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
            { title: "Held by", cell: (each) => each.here ? <Badge tone="good">this director</Badge> : <Badge tone={each.master ? "calm" : "warn"}>{each.master || "no master is heard"}</Badge> },
            { title: "Virtual router", cell: (each) => each.router },
          ]} />
        )}
      </Card>
      {data.instances.length > 0 && (
        <Card title="Virtual routers" wide>
          <Table caption="Virtual routers" rows={data.instances} name={(each) => each.name} columns={[
            { title: "Name", cell: (each) => each.name },
            { title: "State", cell: (each) => <RouterState state={each.state} /> },
            { title: "Since", minor: true, cell: (each) => age(each.since) },
            { title: "Priority", number: true, wide: true, cell: (each) => each.priority },
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
  const { data, error } = useView<{ peer: Peer | null }>("peer"), may = useMayOperate(), { daemon } = useLive(), [asked, ask] = useState(false);
  if (error) return <Card title="Other director"><p class="error" role="alert">{error}</p></Card>;
  if (!data) return <Loading />;
  return (
    <Card title="Other director" aside={may && data.peer && daemon ? <button type="button" onClick={() => ask(true)}>Copy connections</button> : undefined} wide>
      {!data.peer ? <Empty>None is configured: peer_director in the configuration names it.</Empty> : (
        <PeerFacts peer={data.peer} />
      )}
      {asked && (
        <Confirm title="Copy connections" button="Copy" close={(done) => { ask(false); if (done) tell(done); }} act={() => post("peer-copy", {}).then(() => "The copy has begun.")}>
          <p>This director asks the other one for its whole table. What is here stays.</p>
        </Confirm>
      )}
    </Card>
  );
}
