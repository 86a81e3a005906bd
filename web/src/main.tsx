/** The page: who may see it, where one is, and whether the data is today's. */

import { render } from "preact";
import { useEffect, useState } from "preact/hooks";
import "uplot/dist/uPlot.min.css";
import { onExpired, post, type Session } from "./api";
import { clock } from "./format";
import { setRefusal, setSession, start, useLive } from "./live";
import { Dialogs, onDone } from "./operations";
import { EventsPage } from "./pages/events";
import { Overview } from "./pages/overview";
import { ServerPage } from "./pages/server";
import { ServicePage, ServicesPage, ServersPage } from "./pages/services";
import { TopologyPage } from "./pages/topology";
import { ConfigurationPage, DoctorPage, DropsPage, ProblemsPage, TracePage } from "./pages/tools";
import { PeerPage, VrrpPage } from "./pages/vrrp";
import { useRoute, type Query } from "./route";
import "./style.css";
import { Badge } from "./ui";

const PAGES: [name: string, title: string][] = [
  ["", "Overview"], ["services", "Services"], ["servers", "Servers"], ["topology", "Topology"], ["vrrp", "Routers"], ["peer", "Other director"],
  ["events", "Events"], ["problems", "Problems"], ["drops", "Drops"], ["doctor", "Doctor"], ["trace", "Trace"], ["configuration", "Configuration"],
];

function Page({ page, query }: { page: string; query: Query }) {
  switch (page) {
    case "": return <Overview />;
    case "services": return <ServicesPage query={query} />;
    case "service": return <ServicePage query={query} />;
    case "servers": return <ServersPage query={query} />;
    case "server": return <ServerPage query={query} />;
    case "topology": return <TopologyPage />;
    case "vrrp": return <VrrpPage />;
    case "peer": return <PeerPage />;
    case "events": return <EventsPage />;
    case "problems": return <ProblemsPage />;
    case "drops": return <DropsPage />;
    case "doctor": return <DoctorPage />;
    case "trace": return <TracePage />;
    case "configuration": return <ConfigurationPage />;
    default: return <p class="empty">There is no such page. <a href="#/">Overview</a></p>;
  }
}

// --- light and dark ---

const media = window.matchMedia("(prefers-color-scheme: dark)");

function kept(): string {
  try { return window.localStorage.getItem("pylvs-theme") ?? ""; } catch { return ""; }
}

function paint(theme: string): void {
  document.documentElement.dataset.theme = theme || (media.matches ? "dark" : "light");
}

function ThemeSwitch() {
  const [theme, set] = useState(kept());
  useEffect(() => {
    paint(theme);
    try { window.localStorage.setItem("pylvs-theme", theme); } catch { /* a browser that keeps nothing */ }
    const each = () => paint(theme);
    media.addEventListener("change", each);
    return () => media.removeEventListener("change", each);
  }, [theme]);
  return (
    <label class="theme"><span class="hidden">Colours</span>
      <select value={theme} onChange={(event) => set(event.currentTarget.value)}><option value="">auto</option><option value="light">light</option><option value="dark">dark</option></select>
    </label>
  );
}

// --- who ---

function SignIn() {
  const [token, set] = useState(""), [busy, work] = useState(false), { refusal } = useLive();
  async function enter(event: Event) {
    event.preventDefault();
    work(true);
    try {
      setSession(await post<Session>("login", { token: token.trim() }));
    } catch (refused) {
      setRefusal(reason(refused));
      work(false);
    }
  }
  return (
    <main class="signin">
      <form class="card" onSubmit={enter}>
        <h1>pylvs</h1>
        <label class="field">Token<input type="password" autocomplete="current-password" required value={token} onInput={(event) => set(event.currentTarget.value)} /></label>
        {refusal && <p class="error" role="alert">{refusal}</p>}
        <button type="submit" class="primary" disabled={busy}>{busy ? "Signing in …" : "Sign in"}</button>
        <p class="muted">On the director, <code>pylvs web --new-token NAME --role read</code> makes one.</p>
      </form>
    </main>
  );
}

function Header() {
  const { session, overview, daemon, online, updating } = useLive();
  const sign = () => void post("logout", {}).catch(() => undefined).then(() => setSession({ ...session!, role: "", who: "" }));
  return (
    <header class="top">
      <a class="brand" href="#/"><img src="./icon.svg" alt="" width={26} height={26} /> <strong>pylvs</strong>{overview && <span>{overview.name}</span>}</a>
      <span class="live" role="status">{updating ? <Badge tone="calm">updating</Badge> : online && daemon?.connected ? <Badge tone="good">live</Badge> : <Badge tone="bad">no data</Badge>}</span>
      <ThemeSwitch />
      {session?.who && <span class="who">{session.who}, {session.role}</span>}
      {session?.needs_token && <button type="button" onClick={sign}>Sign out</button>}
    </header>
  );
}

function Banner() {
  const { online, daemon, overview, refusal } = useLive();
  const since = overview ? ` What you see is of ${clock(overview.at)}.` : "";
  if (!online) return <p class="banner" role="alert">No connection to the page's server. It is tried again every two seconds.{since}</p>;
  if (daemon && !daemon.connected) return <p class="banner" role="alert">The daemon does not answer: {daemon.problem} Packets are forwarded without it.{since}</p>;
  if (refusal) return <p class="banner" role="alert">The link's token was refused: {refusal}. You are still signed in as before. <button type="button" onClick={() => setRefusal("")}>Close</button></p>;
  if (daemon?.older) return <p class="banner calm" role="status">{daemon.older}</p>;
  return null;
}

function Toast() {
  const [text, set] = useState("");
  useEffect(() => {
    onDone(set);
    const timer = window.setTimeout(() => set(""), 6000);
    return () => window.clearTimeout(timer);
  }, [text]);
  return <div class="toast" role="status">{text && <span>✓ {text}</span>}</div>;
}

function App() {
  const { session, online } = useLive(), route = useRoute();
  const own = route.page === "service" ? "services" : route.page === "server" ? "servers" : route.page;
  const title = PAGES.find(([name]) => name === own)?.[1] ?? "pylvs";
  useEffect(() => { document.title = `${title} – pylvs`; }, [title]);
  useEffect(() => { window.scrollTo(0, 0); }, [route.page]);
  useEffect(() => {
    const show = () => document.querySelector(".menu [aria-current]")?.scrollIntoView({ block: "nearest", inline: "center" });
    show(); // on a phone the menu is a row that is longer than the screen
    window.addEventListener("resize", show);
    return () => window.removeEventListener("resize", show);
  }, [own, session?.role]);
  if (!session) return <main class="signin"><p class="empty" role="status">{online ? "Loading …" : "Connecting …"}</p></main>;
  if (!session.role) return <SignIn />;
  return (
    <>
      <a class="skip" href="#content" onClick={(event) => { event.preventDefault(); document.getElementById("content")?.focus(); }}>To the content</a>
      <Header />
      <div class="shell">
        <nav class="menu" aria-label="pages"><ul>{PAGES.map(([name, text]) => <li key={name}><a href={`#/${name}`} aria-current={name === own ? "page" : undefined}>{text}</a></li>)}</ul></nav>
        <main id="content" tabIndex={-1}>
          <h1 class="hidden">{title}</h1>
          <Banner />
          <Page key={route.page + (route.query.name ?? "") + (route.query.server ?? "")} page={route.page} query={route.query} />
        </main>
      </div>
      <Dialogs />
      <Toast />
    </>
  );
}

// --- a link that signs in: #token=TOKEN ---

const reason = (error: unknown): string => (error instanceof Error ? error.message : String(error));

/** Sign in with the token of the address, and remove it from there; return whether there is one. */
function enterByLink(before: string): boolean {
  const given = /^#token=(.*)$/.exec(window.location.hash);
  if (!given) return false;
  window.history.replaceState(null, "", window.location.pathname + window.location.search + before);
  let token = given[1]!;
  try { token = decodeURIComponent(token); } catch { /* as it is: the server refuses it */ }
  post<Session>("login", { token }).then(setSession, (error) => { setRefusal(reason(error)); start(); });
  return true;
}

paint(kept());
onExpired(() => start());
window.addEventListener("hashchange", (event) => void enterByLink(new URL(event.oldURL).hash)); // before that of the route
if (!enterByLink("")) start();
render(<App />, document.getElementById("app")!);
