/** What the pages are made of. State is shown by a shape and a word as well as by a colour. */

import type { ComponentChildren } from "preact";
import { useEffect, useId, useLayoutEffect, useRef, useState } from "preact/hooks";
import uPlot from "uplot";
import { Refused, type Finding } from "./api";
import { timeOfDay } from "./format";

export type Tone = "good" | "warn" | "bad" | "calm";
const SHAPES: Record<Tone, string> = { good: "●", warn: "▲", bad: "■", calm: "○" };

export function Badge({ tone, children }: { tone: Tone; children: ComponentChildren }) {
  return <span class={`badge ${tone}`}><span aria-hidden="true">{SHAPES[tone]}</span>{"\u00a0"}{children}</span>;
}

export function severity(word: string): Tone {
  return word === "critical" || word === "error" ? "bad" : word === "warning" ? "warn" : "calm";
}

export function Card({ title, aside, children, wide }: { title?: string; aside?: ComponentChildren; children: ComponentChildren; wide?: boolean }) {
  const id = useId();
  return (
    <section class={`card${wide ? " wide" : ""}`} aria-labelledby={title ? id : undefined}>
      {title && <header><h2 id={id}>{title}</h2>{aside && <div class="aside">{aside}</div>}</header>}
      {children}
    </section>
  );
}

/** An address with its port: a narrow column breaks it before the port. */
export function Endpoint({ text }: { text: string }) {
  const at = text.search(/:\d+( |$)/);
  return at < 0 ? <>{text}</> : <>{text.slice(0, at)}<wbr />{text.slice(at)}</>;
}

export const Empty = ({ children }: { children: ComponentChildren }) => <p class="empty">{children}</p>;
export const Loading = () => <p class="empty" role="status">Loading …</p>;

export function Spark({ values, label }: { values: (number | null)[]; label: string }) {
  const found = values.filter((each): each is number => each !== null);
  const most = Math.max(...found, 1e-9) * 1.15, step = 100 / Math.max(values.length - 1, 1);
  const points = values.map((each, at) => (each === null ? "" : `${(at * step).toFixed(1)},${(27 - (25 * each) / most).toFixed(1)}`)).filter(Boolean).join(" ");
  return (
    <svg class="spark" viewBox="0 0 100 28" preserveAspectRatio="none" role="img" aria-label={label}>
      {points && <polyline points={points} />}
    </svg>
  );
}

/** A column. A small screen leaves out those that are `minor`, and a phone those of `wide`, too. */
export interface Column<Row> { title: string; cell: (row: Row) => ComponentChildren; number?: boolean; minor?: boolean; wide?: boolean }

const kind = <Row,>(column: Column<Row>): string => `${column.number ? "n" : ""}${column.minor ? " minor" : ""}${column.wide ? " wide" : ""}`;

export function Table<Row>({ caption, columns, rows, name }: { caption: string; columns: Column<Row>[]; rows: Row[]; name: (row: Row, at: number) => string }) {
  return (
    <div class="scroll" tabIndex={0} role="group" aria-label={caption}>
      <table>
        <caption class="hidden">{caption}</caption>
        <thead><tr>{columns.map((each) => <th key={each.title} scope="col" class={kind(each)}>{each.title}</th>)}</tr></thead>
        <tbody>
          {rows.map((row, place) => (
            <tr key={name(row, place)}>
              {columns.map((each, at) => {
                const content = each.cell(row);
                return at === 0 ? <th key={each.title} scope="row" class={kind(each)}>{content}</th> : <td key={each.title} class={kind(each)}>{content}</td>;
              })}
            </tr>
          ))}
        </tbody>
      </table>
    </div>
  );
}

export function Pager({ at, size, matched, go }: { at: number; size: number; matched: number; go: (at: number) => void }) {
  if (matched <= size) return null;
  return (
    <nav class="pager" aria-label="pages of the list">
      <button type="button" disabled={at === 0} onClick={() => go(Math.max(0, at - size))}>← Previous</button>
      <span>{at + 1}–{Math.min(at + size, matched)} of {matched.toLocaleString()}</span>
      <button type="button" disabled={at + size >= matched} onClick={() => go(at + size)}>Next →</button>
    </nav>
  );
}

export function Filter({ value, set, sort, setSort, sorts }: { value: string; set: (text: string) => void; sort: string; setSort: (sort: string) => void; sorts: Record<string, string> }) {
  const [text, type] = useState(value);
  useEffect(() => {
    const timer = window.setTimeout(() => text !== value && set(text), 250);
    return () => window.clearTimeout(timer);
  }, [text]);
  return (
    <form class="filter" role="search" onSubmit={(event) => { event.preventDefault(); set(text); }}>
      <label><span class="hidden">Filter</span><input type="search" placeholder="Filter …" value={text} onInput={(event) => type(event.currentTarget.value)} /></label>
      <label>Order <select value={sort} onChange={(event) => setSort(event.currentTarget.value)}>{Object.entries(sorts).map(([key, name]) => <option key={key} value={key}>{name}</option>)}</select></label>
    </form>
  );
}

export interface Line { title: string; values: (number | null)[]; colour: string; text: (value: number | null) => string }

const WHOLE = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 5000, 10000, 50000];

/** A timeline. Below it are the numbers under the pointer, else the last ones. `whole`: they count things. */
export function Chart({ title, times, lines, whole }: { title: string; times: number[]; lines: Line[]; whole?: boolean }) {
  const box = useRef<HTMLDivElement>(null), plot = useRef<uPlot | null>(null);
  const shape = lines.map((each) => each.title).join();
  const dark = useDark();
  const texts = useRef(lines);
  texts.current = lines;
  useEffect(() => {
    const where = box.current;
    if (!where) return;
    const style = getComputedStyle(document.documentElement), colour = (name: string) => style.getPropertyValue(name).trim();
    const axis = { stroke: colour("--muted"), grid: { stroke: colour("--line"), width: 1 }, ticks: { show: false }, font: "12px system-ui" };
    const last = (chart: uPlot, at: number, value: number | null, index: number | null) => index === null ? chart.data[at]!.at(-1) ?? null : value;
    const fresh = new uPlot({
      width: Math.max(where.clientWidth, 200), height: 190, cursor: { drag: { x: true, y: false }, y: false }, legend: { live: true },
      scales: { x: { time: true }, y: { range: (_, low, high) => [Math.min(0, low), high > 0 ? high * 1.1 : 1] } },
      axes: [{ ...axis, size: 30, space: 70, values: (_, ticks) => ticks.map((each) => timeOfDay(each, false)) }, { ...axis, size: 70, ...(whole ? { incrs: WHOLE } : {}), values: (_, ticks) => ticks.map((each) => lines[0]!.text(each)) }],
      series: [{ label: "at", value: (chart, at, which, index) => { const found = last(chart, which, at, index); return found === null ? "–" : timeOfDay(found, true); } }, ...lines.map((each, at) => ({
        label: each.title, stroke: colour(each.colour), width: 2, spanGaps: false, points: { show: false },
        ...(at === 0 && lines.length < 3 ? { fill: colour(`${each.colour}-fill`) } : {}),
        value: (chart: uPlot, value: number | null, which: number, index: number | null) => each.text(last(chart, which, value, index)),
      }))],
    }, [times, ...lines.map((each) => each.values)] as uPlot.AlignedData, where);
    plot.current = fresh;
    const watch = new ResizeObserver(() => fresh.setSize({ width: Math.max(where.clientWidth, 200), height: 190 }));
    watch.observe(where);
    return () => { watch.disconnect(); fresh.destroy(); plot.current = null; };
  }, [shape, dark]);
  useEffect(() => {
    const chart = plot.current, fresh = [times, ...lines.map((each) => each.values)] as uPlot.AlignedData;
    if (!chart) return;
    const { min, max } = chart.scales.x!, shown = chart.data[0];
    const zoomed = min != null && max != null && (min > shown[0]! || max < shown.at(-1)!) && max > (times[0] ?? Infinity);
    chart.setData(fresh, !zoomed);
    if (zoomed) chart.setScale("x", { min, max }); // else the next sample would show all of it again
  }, [times, lines]);
  const last = lines.map((each) => `${each.title} ${each.text(each.values.at(-1) ?? null)}`).join(", ");
  return <figure class="chart"><figcaption>{title}</figcaption><div ref={box} role="img" aria-label={`${title}: now ${last}`} /></figure>;
}

function useDark(): boolean {
  const dark = () => document.documentElement.dataset.theme === "dark";
  const [is, set] = useState(dark());
  useEffect(() => {
    const watch = new MutationObserver(() => set(dark()));
    watch.observe(document.documentElement, { attributes: true });
    return () => watch.disconnect();
  }, []);
  return is;
}

/** A dialog that says what will happen, and does it once it is confirmed. */
export function Confirm({ title, button, danger, children, act, close }: { title: string; button: string; danger?: boolean; children: ComponentChildren; act: () => Promise<string>; close: (done: string) => void }) {
  const dialog = useRef<HTMLDialogElement>(null), id = useId();
  const [busy, setBusy] = useState(false), [error, setError] = useState(""), [findings, setFindings] = useState<Finding[]>([]);
  useLayoutEffect(() => { dialog.current?.showModal(); }, []);
  async function run(event: Event) {
    event.preventDefault();
    setBusy(true); setError(""); setFindings([]);
    try {
      close(await act());
    } catch (refused) {
      setError(refused instanceof Error ? refused.message : String(refused));
      if (refused instanceof Refused) setFindings(refused.findings);
      setBusy(false);
    }
  }
  return (
    <dialog ref={dialog} aria-labelledby={id} onClose={() => close("")}>
      <form onSubmit={run}>
        <h2 id={id}>{title}</h2>
        {children}
        {error && <p class="error" role="alert">{error}</p>}
        {findings.length > 0 && <Findings findings={findings} />}
        <footer>
          <button type="button" onClick={() => dialog.current?.close()}>{busy ? "Close" : "Cancel"}</button>
          <button type="submit" class={danger ? "danger" : "primary"} disabled={busy}>{busy ? "Working …" : button}</button>
        </footer>
      </form>
    </dialog>
  );
}

export function Findings({ findings }: { findings: Finding[] }) {
  return (
    <ul class="findings">
      {findings.map((each, at) => (
        <li key={at}>
          <Badge tone={severity(each.severity)}>{each.severity}</Badge> {each.text}
          <div class="where">{each.file}:{each.line}:{each.column}{each.advice && ` – ${each.advice}`}</div>
        </li>
      ))}
    </ul>
  );
}
