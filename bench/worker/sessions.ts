/** Sessions that ask a worker at once over Connect, and what they see of it. */
import type { Client } from "@connectrpc/connect";
import { Role } from "../../src/gen/leanedge/v1/session_pb.js";
import type { PrefixName, WorkerService } from "../../src/gen/leanedge/worker/v1/worker_pb.js";
import { quantile } from "../support/stats.js";
import type { LoadRun } from "./workload.js";

/** One answer as its client saw it. */
export type Seen = {
  /** Clock of the call. */
  askedMs: number;
  /** Clock of each token's arrival. */
  arrivedMs: number[];
  /** Tokens before the answer that were in the cache. */
  cachedTokens: number;
  /** Prompt and answer, in tokens, once it has ended. */
  logTokens: number;
  prefix: PrefixName | undefined;
};

/** How sessions reach the engine: through its worker alone, or through a gateway before it. */
export type Way = {
  /** One turn, listened to until its end; `first`: what the session's first one gave. */
  answer(ask: WayAsk): Promise<Seen>;
  /** Forgets a session. */
  forget(id: string): Promise<unknown>;
};

/** One turn of a session. */
export type WayAsk = {
  id: string;
  text: string;
  maxTokens: number;
  first?: Seen;
  onFirstToken?: () => void;
};

/** No answer yet. */
export function nothingSeen(): Seen {
  return {
    ...{ askedMs: performance.now(), arrivedMs: [], cachedTokens: 0, logTokens: 0 },
    prefix: undefined,
  };
}

/** One question of a session. */
export type Ask = { id: string; text: string; maxTokens: number; prefix?: PrefixName };

/** One answer, listened to until its end. */
export async function answer(
  client: Client<typeof WorkerService>,
  model: string,
  ask: Ask,
  signal?: AbortSignal,
  onFirstToken: () => void = () => undefined,
): Promise<Seen> {
  const seen = nothingSeen();
  const stream = client.generate(
    {
      sequenceId: ask.id,
      generation: 1n,
      model,
      messages: [{ role: Role.USER, text: ask.text }],
      sampling: { maxTokens: ask.maxTokens, temperature: 0 },
      ...(ask.prefix === undefined ? {} : { prefix: ask.prefix }),
    },
    signal === undefined ? {} : { signal },
  );
  for await (const { event } of stream) {
    if (event.case === "accepted") seen.cachedTokens = event.value.cachedTokens;
    if (event.case === "tokens") {
      const now = performance.now();
      if (seen.arrivedMs.length === 0) onFirstToken();
      for (let i = 0; i < event.value.ids.length; i++) seen.arrivedMs.push(now);
    }
    if (event.case === "finished") {
      seen.prefix = event.value.prefix;
      seen.logTokens = event.value.prefix?.tokens ?? 0;
    }
  }
  return seen;
}

/** Seconds that the worker's engine has spent in steps. */
async function engineSeconds(url: string): Promise<number> {
  const text = await (await fetch(`${url}/metrics`)).text();
  const line = text
    .split("\n")
    .find((each) => each.startsWith("leanedge:step_duration_seconds_sum"));
  return Number(line?.slice(line.lastIndexOf(" ") + 1));
}

/** A look at the engine: when, and the seconds of its steps so far. */
type Look = { atMs: number; seconds: Promise<number> };

/** All sessions at once: what each saw, and what of it lies where all of them answer. */
function throughput(seen: readonly Seen[]): Pick<LoadRun, "tokensPerSecond" | "stepMs" | "gapMs"> {
  const fromMs = Math.max(...seen.map(({ arrivedMs }) => arrivedMs[0] ?? Infinity));
  const toMs = Math.min(...seen.map(({ arrivedMs }) => arrivedMs.at(-1) ?? 0));
  if (!(toMs > fromMs)) throw new Error("no moment at which all sessions answer: longer answers");
  const inside = seen.map(({ arrivedMs }) => arrivedMs.filter((at) => at > fromMs && at <= toMs));
  const tokens = inside.reduce((sum, { length }) => sum + length, 0);
  const gaps = inside.flatMap((times) => times.slice(1).map((at, i) => at - (times[i] ?? at)));
  return {
    tokensPerSecond: (1000 * tokens) / (toMs - fromMs),
    stepMs: ((toMs - fromMs) * seen.length) / tokens,
    gapMs: quantile(gaps, 0.99),
  };
}

/** Share of the time between two looks that went into engine steps. */
async function engineShare(looks: readonly Look[]): Promise<number> {
  const [from, to] = looks;
  if (from === undefined || to === undefined) throw new Error("nobody looked twice");
  return (1000 * ((await to.seconds) - (await from.seconds))) / (to.atMs - from.atMs);
}

/** What sessions ask at once. */
export type Asked = {
  sessions: number;
  /** Prompt of each. */
  prompt: string;
  /** Longest answer of each. */
  generate: number;
};

/** A worker, asked without a gateway. */
export function workerWay(client: Client<typeof WorkerService>, model: string): Way {
  return {
    answer: ({ id, text, maxTokens, first, onFirstToken }) => {
      const prefix = first?.prefix;
      const ask = { id, text, maxTokens, ...(prefix === undefined ? {} : { prefix }) };
      return answer(client, model, ask, undefined, onFirstToken);
    },
    forget: (sequenceId) => client.release({ sequenceId, generation: 1n }),
  };
}

/** All sessions at once, and a second turn of each; none is left behind. `url` is the worker's. */
export function allSessions(
  client: Client<typeof WorkerService>,
  url: string,
  asked: Asked & { model: string },
): Promise<LoadRun> {
  return allSessionsOf(workerWay(client, asked.model), url, asked);
}

/** The same in some way; `url` is the worker's in any case. */
export async function allSessionsOf(way: Way, url: string, asked: Asked): Promise<LoadRun> {
  const sessions = Array.from({ length: asked.sessions }, (_, index) => `s${index}`);
  const { prompt: text, generate: maxTokens } = asked;
  let waiting = sessions.length;
  const decoding: Look[] = [];
  const look = (): void => {
    decoding.push({ atMs: performance.now(), seconds: engineSeconds(url) });
  };
  const onFirstToken = (): void => {
    if (--waiting === 0) look();
  };
  const startMs = performance.now();
  const first = await Promise.all(
    sessions.map(async (id) => {
      const seen = await way.answer({ id, text, maxTokens, onFirstToken });
      if (decoding.length === 1) look();
      return seen;
    }),
  );
  const wholeMs = Math.max(...first.map(({ arrivedMs }) => arrivedMs.at(-1) ?? Infinity)) - startMs;
  const measured = { ...throughput(first), wholeMs, engineShare: await engineShare(decoding) };

  // Ids of an answer that ran into its limit are all computed but the last one.
  const second = await Promise.all(
    first.map((seen, index) =>
      way.answer({ id: sessions[index] ?? "", text: "Go on.", maxTokens: 2, first: seen }),
    ),
  );
  const shares = second.map(
    ({ cachedTokens }, i) => cachedTokens / ((first[i]?.logTokens ?? 0) - 1),
  );
  await Promise.all(sessions.map((id) => way.forget(id)));
  return {
    ...measured,
    firstTokenMs: firstTokens(first),
    secondTurnMs: firstTokens(second),
    cachedShare: Math.min(...shares, 1),
  };
}

function firstTokens(seen: readonly Seen[]): LoadRun["firstTokenMs"] {
  const ms = seen.map(({ askedMs, arrivedMs }) => (arrivedMs[0] ?? Infinity) - askedMs);
  return { p50: quantile(ms, 0.5), p99: quantile(ms, 0.99) };
}
