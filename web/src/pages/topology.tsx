import { useEffect, useState } from "preact/hooks";
import type { Topology } from "../api";
import { useView } from "../live";
import { link } from "../route";
import { Card, Empty, Loading } from "../ui";

const STEP = 34, TOP = 40, HEIGHT = 26;
const SMALL = window.matchMedia("(max-width: 600px)");
// A phone shows two columns, so that nothing is out of sight: addresses are in the names of services.
const sizes = (small: boolean) => (small ? { width: 157, gap: 20, most: 21, left: 1 } : { width: 250, gap: 110, most: 32, left: 8 });

interface Box { x: number; y: number; text: string; tone: string; href?: string; note?: string }

function Node({ box, width, most }: { box: Box; width: number; most: number }) {
  const text = box.text.length > most ? `${box.text.slice(0, most - 1)}…` : box.text;
  const inner = (
    <g transform={`translate(${box.x} ${box.y})`} class={`node ${box.tone}`}>
      <rect width={width} height={HEIGHT} rx={6} /><text x={24} y={17.5}>{text}</text>
      {box.tone === "bad" ? <rect class="dot" x={8} y={8.5} width={9} height={9} /> : <circle class="dot" cx={12.5} cy={13} r={4.5} />}
      <title>{box.text}{box.note ? `: ${box.note}` : ""}</title>
    </g>
  );
  return box.href ? <a href={box.href}>{inner}</a> : inner;
}

/** The virtual address of "TCP 192.0.2.1:80"; a firewall mark has none, and stands for itself. */
function addressOf(key: string): string {
  return /^\S+ \[?([^\]]*?)\]?:\d+$/.exec(key)?.[1] ?? key;
}

function useSmall(): boolean {
  const [small, set] = useState(SMALL.matches);
  useEffect(() => {
    const each = () => set(SMALL.matches);
    SMALL.addEventListener("change", each);
    return () => SMALL.removeEventListener("change", each);
  }, []);
  return small;
}

/** Virtual addresses with what holds them, services, real servers, and what leads to what. */
export function TopologyPage() {
  const { data, error } = useView<Topology>("topology"), small = useSmall();
  if (error) return <Card title="Topology"><p class="error" role="alert">{error}</p></Card>;
  if (!data) return <Loading />;
  if (!data.services.length) return <Card title="Topology"><Empty>No service is configured.</Empty></Card>;
  const { width, gap, most, left } = sizes(small), shift = small ? 1 : 0;
  const column = (at: number) => left + (at - shift) * (width + gap), y = (at: number) => TOP + at * STEP;
  const router = (address: string) => data.routers.find((each) => (each.addresses ?? []).some((one) => one.split("/")[0] === address));
  const names = small ? [] : [...new Set(data.services.flatMap((each) => each.keys.map(addressOf)))];
  const addresses: Box[] = names.map((text, at) => {
    const holder = router(text), state = holder?.state;
    return { x: column(0), y: y(at), text: holder ? `${text}  ${holder.name}` : text, tone: state === "MASTER" ? "good" : state === "FAULT" ? "bad" : "calm", note: state ?? "no virtual router", href: holder ? "#/vrrp" : undefined };
  });
  const services: Box[] = data.services.map((each, at) => ({ x: column(1), y: y(at), text: each.name, tone: each.up ? "good" : "bad", note: `${each.up ? "up" : "down"} ${each.method}`, href: link("service", { name: each.name }) }));
  const servers: Box[] = data.servers.map((each, at) => ({ x: column(2), y: y(at), text: each.server, tone: each.up ? (each.weight ? "good" : "calm") : "bad", note: each.up ? `up, weight ${each.weight}` : "down" }));
  const height = TOP + STEP * Math.max(addresses.length, services.length, servers.length) + 8;
  const curve = (one: Box, other: Box) => `M${one.x + width} ${one.y + 13} C${one.x + width + gap / 2} ${one.y + 13} ${other.x - gap / 2} ${other.y + 13} ${other.x} ${other.y + 13}`;
  const devices = data.director.devices.map((each) => `${each.name} (${each.mode})`).join(", ");
  return (
    <Card title={`Topology of ${data.director.name}`} aside={data.left_off > 0 ? `${data.left_off} more are not drawn` : undefined} wide>
      {devices && <p class="muted">Attached: {devices}</p>}
      <div class="scroll" tabIndex={0} role="group" aria-label="Topology">
        <svg class={small ? "topology small" : "topology"} width={column(2) + width + left} height={height} role="group" aria-label="Virtual addresses, services and real servers">
          {["Virtual addresses", "Services", "Real servers"].map((each, at) => at >= shift && <text key={each} class="head" x={column(at)} y={20}>{each}</text>)}
          {data.services.flatMap((each, at) => small ? [] : each.keys.map((key) => <path key={`${at} ${key}`} class="edge" d={curve(addresses[names.indexOf(addressOf(key))]!, services[at]!)} />))}
          {data.services.flatMap((each, at) => each.servers.map((to) => servers[to] && <path key={`${at} ${to}`} class={`edge ${servers[to].tone}`} d={curve(services[at]!, servers[to])} />))}
          {[...addresses, ...services, ...servers].map((each) => <Node key={`${each.x} ${each.y}`} box={each} width={width} most={most} />)}
        </svg>
      </div>
    </Card>
  );
}
