import type { Topology } from "../api";
import { useView } from "../live";
import { link } from "../route";
import { Card, Empty, Loading } from "../ui";

const STEP = 34, LEFT = 8, WIDTH = 250, GAP = 110, TOP = 40;
const short = (text: string, most = 32): string => (text.length > most ? `${text.slice(0, most - 1)}…` : text);

interface Box { x: number; y: number; text: string; tone: string; href?: string; note?: string }

function Node({ box }: { box: Box }) {
  const inner = (
    <g transform={`translate(${box.x} ${box.y})`} class={`node ${box.tone}`}>
      <rect width={WIDTH} height={26} rx={6} /><text x={24} y={17.5}>{short(box.text)}</text>
      {box.tone === "bad" ? <rect class="dot" x={8} y={8.5} width={9} height={9} /> : <circle class="dot" cx={12.5} cy={13} r={4.5} />}
      <title>{box.text}{box.note ? `: ${box.note}` : ""}</title>
    </g>
  );
  return box.href ? <a href={box.href}>{inner}</a> : inner;
}

/** Virtual routers and addresses, services, real servers, and what leads to what. */
export function TopologyPage() {
  const { data, error } = useView<Topology>("topology");
  if (error) return <Card title="Topology"><p class="error" role="alert">{error}</p></Card>;
  if (!data) return <Loading />;
  if (!data.services.length) return <Card title="Topology"><Empty>No service is configured.</Empty></Card>;
  const entries: Box[] = [
    ...data.routers.map((each) => ({ text: `${each.name}: ${(each.addresses ?? []).join(", ")}`, tone: each.state === "MASTER" ? "good" : each.state === "FAULT" ? "bad" : "calm", note: each.state, href: "#/vrrp" })),
    ...data.director.devices.map((each) => ({ text: `${each.name} (${each.mode})`, tone: "calm", note: "device" })),
  ].map((each, at) => ({ ...each, x: LEFT, y: TOP + at * STEP }));
  const column = (at: number) => LEFT + at * (WIDTH + GAP);
  const services: Box[] = data.services.map((each, at) => ({ x: column(1), y: TOP + at * STEP, text: each.name, tone: each.up ? "good" : "bad", note: `${each.up ? "up" : "down"} ${each.method}`, href: link("service", { name: each.name }) }));
  const servers: Box[] = data.servers.map((each, at) => ({ x: column(2), y: TOP + at * STEP, text: each.server, tone: each.up ? (each.weight ? "good" : "calm") : "bad", note: each.up ? `up, weight ${each.weight}` : "down" }));
  const height = TOP + STEP * Math.max(entries.length, services.length, servers.length) + 8;
  const curve = (one: Box, other: Box) => `M${one.x + WIDTH} ${one.y + 13} C${one.x + WIDTH + GAP / 2} ${one.y + 13} ${other.x - GAP / 2} ${other.y + 13} ${other.x} ${other.y + 13}`;
  return (
    <Card title={`Topology of ${data.director.name}`} aside={data.left_off > 0 ? `${data.left_off} more are not drawn` : undefined} wide>
      <div class="scroll" tabIndex={0} role="group" aria-label="Topology">
        <svg class="topology" width={column(2) + WIDTH + 8} height={height} role="group" aria-label="Virtual addresses, services and real servers">
          {["Addresses and devices", "Services", "Real servers"].map((each, at) => <text key={each} class="head" x={column(at)} y={20}>{each}</text>)}
          {entries.flatMap((entry) => services.slice(0, 40).map((each) => <path key={`${entry.y} ${each.y}`} class="edge faint" d={curve(entry, each)} />))}
          {data.services.flatMap((each, at) => each.servers.map((to) => servers[to] && <path key={`${at} ${to}`} class={`edge ${servers[to].tone}`} d={curve(services[at]!, servers[to])} />))}
          {[...entries, ...services, ...servers].map((each) => <Node key={`${each.x} ${each.y}`} box={each} />)}
        </svg>
      </div>
    </Card>
  );
}
