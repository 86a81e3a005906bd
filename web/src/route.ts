/** The place within the page: `#/name?parameter=value`. */

import { useEffect, useState } from "preact/hooks";

export type Query = Record<string, string | undefined>;
export interface Route { page: string; query: Query }

export function link(page: string, query: Query = {}): string {
  const found = new URLSearchParams();
  for (const [name, value] of Object.entries(query)) if (value) found.set(name, value);
  const text = found.toString();
  return `#/${page}${text ? `?${text}` : ""}`;
}

export function go(page: string, query: Query = {}): void { window.location.hash = link(page, query); }

function read(): Route {
  const [page = "", query = ""] = window.location.hash.replace(/^#\/?/, "").split("?", 2);
  return { page, query: Object.fromEntries(new URLSearchParams(query)) };
}

export function useRoute(): Route {
  const [route, set] = useState(read());
  useEffect(() => {
    const each = () => set(read());
    window.addEventListener("hashchange", each);
    return () => window.removeEventListener("hashchange", each);
  }, []);
  return route;
}
