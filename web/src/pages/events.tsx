import { useState } from "preact/hooks";
import type { DaemonEvent } from "../api";
import { clock } from "../format";
import { useLive } from "../live";
import { Badge, Card, Empty, type Tone } from "../ui";

const BAD = /down|lost|fail|fault|refused|crash|error|ended/, GOOD = /up|master|recovered|complete|reloaded|enabled|resumed/;

function tone(event: DaemonEvent): Tone {
  if (event.level === "error" || event.level === "critical") return "bad";
  if (BAD.test(event.event)) return "warn";
  return GOOD.test(event.event) ? "good" : "calm";
}

const text = (value: unknown): string => (typeof value === "string" ? value : JSON.stringify(value));

export function Events({ events }: { events: DaemonEvent[] }) {
  return (
    <ol class="events">
      {events.map((each, at) => {
        const { event, at: when, level: _, ...fields } = each;
        return (
          <li key={`${when}${event}${at}`}>
            <time dateTime={new Date(when * 1000).toISOString()}>{clock(when)}</time>
            <Badge tone={tone(each)}>{event.replaceAll("_", " ")}</Badge>
            <span class="fields">{Object.entries(fields).filter(([, value]) => value !== "" && value !== null).map(([name, value]) => <span key={name}><span class="muted">{name}</span> {text(value)} </span>)}</span>
          </li>
        );
      })}
    </ol>
  );
}

export function EventList({ most }: { most: number }) {
  const { events } = useLive();
  if (!events.length) return <Empty>Nothing has happened yet.</Empty>;
  return <Events events={events.slice(-most).reverse()} />;
}

export function EventsPage() {
  const { events, missed } = useLive(), [filter, set] = useState("");
  const found = events.filter((each) => JSON.stringify(each).toLowerCase().includes(filter.toLowerCase())).reverse();
  return (
    <Card title="Events" aside={<form class="filter" role="search"><label><span class="hidden">Filter</span><input type="search" placeholder="Filter …" value={filter} onInput={(event) => set(event.currentTarget.value)} /></label></form>} wide>
      {missed > 0 && <p class="muted">{missed} were left out: this page did not read them in time.</p>}
      <div aria-live="polite">{found.length ? <Events events={found} /> : <Empty>{filter ? "None matches." : "Nothing has happened yet."}</Empty>}</div>
    </Card>
  );
}
