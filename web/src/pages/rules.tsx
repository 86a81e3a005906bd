/** The client rules of a service: who may connect, and how often. */

import { useEffect, useState } from "preact/hooks";
import { get, post, type ClientRule, type ClientRules } from "../api";
import { number } from "../format";
import { useLive } from "../live";
import { ask, useMayOperate, type Close } from "../operations";
import { Card, Confirm, Empty, Loading, Pager, Table, type Column } from "../ui";

const PAGE = 1000, FRESH_S = 10; // of rules that one reply has; after which they are read again
const SET_BY: Record<ClientRule["origin"], string> = { file: "the configuration", operator: "an operator", other: "ipvsadm or pylvs filter" };

/** Return the rules from a number on, why there are none, and how to read them now. */
function useRules(service: string, start: number): { data: ClientRules | null; error: string; read: () => void } {
  const { overview } = useLive(), turn = Math.floor((overview?.at ?? 0) / FRESH_S);
  const [data, set] = useState<ClientRules | null>(null), [error, fail] = useState(""), [again, count] = useState(0);
  useEffect(() => {
    let left = false;
    get<ClientRules>("client-rules", { service, start })
      .then((found) => { if (!left) { set(found); fail(""); } })
      .catch((refused: Error) => { if (!left) fail(refused.message); });
    return () => { left = true; };
  }, [service, start, turn, again]);
  return { data, error, read: () => count((each) => each + 1) };
}

export function ClientRulesCard({ service, keys }: { service: string; keys: string[] }) {
  const may = useMayOperate(), [at, go] = useState(0);
  const { data, error, read } = useRules(service, at);
  const add = () => ask((close) => <AddDialog service={service} close={(done) => { close(done); read(); }} />);
  const columns: Column<ClientRule>[] = [
    { title: "Rule", cell: (each) => <code>{each.rule}</code> },
    ...(keys.length > 1 ? [{ title: "Of", wide: true, cell: (each: ClientRule) => each.service }] : []),
    { title: "Set by", cell: (each) => SET_BY[each.origin] },
    ...(may ? [{ title: "Actions", cell: (each: ClientRule) => each.origin === "operator" && <DeleteButton service={service} rule={each} read={read} /> }] : []),
  ];
  return (
    <Card title={data && data.total > 0 ? `Client rules: ${number(data.total)}` : "Client rules"} aside={may && <button type="button" onClick={add}>Add</button>} wide>
      {error ? <p class="error" role="alert">{error}</p> : !data ? <Loading /> : data.total === 0 ? <Empty>None: every client may connect.</Empty> : (
        <Table caption="Client rules" columns={columns} rows={data.rules} name={(each) => `${each.service} ${each.prefix}`} />
      )}
      {data && <Pager at={at} size={PAGE} matched={data.total} go={go} />}
    </Card>
  );
}

function DeleteButton({ service, rule, read }: { service: string; rule: ClientRule; read: () => void }) {
  const act = () => post("client-rules-delete", { service, prefixes: [rule.prefix] }).then(() => `The rule of ${rule.prefix} is deleted.`);
  const open = () => ask((close) => (
    <Confirm title={`Delete ${rule.rule}`} button="Delete" danger close={(done) => { close(done); read(); }} act={act}>
      <p>The rule with the next longest prefix decides about these clients. Without one they may connect.</p>
    </Confirm>
  ));
  return <span class="actions"><button type="button" onClick={open}>Delete</button></span>;
}

function AddDialog({ service, close }: { service: string; close: Close }) {
  const [text, set] = useState("");
  const rules = text.split("\n").map((each) => each.trim()).filter(Boolean);
  const act = async () => {
    const { problem } = await post<{ problem: string }>("client-rules-add", { service, rules });
    if (problem) throw new Error(problem);
    return rules.length === 1 ? "The rule holds." : `${rules.length} rules hold.`;
  };
  return (
    <Confirm title={`Client rules of ${service}`} button="Add" close={close} act={act}>
      <p>One rule a line. The longest prefix of a client decides. Established connections continue. The rules hold over reloads and restarts, until they are deleted.</p>
      <label class="field">Rules
        <textarea rows={4} required placeholder={"deny 203.0.113.0/24\nallow 203.0.113.7\nlimit 0.0.0.0/0 20/s per 24"} value={text} onInput={(event) => set(event.currentTarget.value)} />
      </label>
    </Confirm>
  );
}
