/** A worker in a process of its own, and its clients in this one. */
import { readFileSync } from "node:fs";
import { Role } from "../../src/gen/leanedge/v1/session_pb.js";
import type { PrefixName } from "../../src/gen/leanedge/worker/v1/worker_pb.js";
import {
  embeddedModelId,
  openWorkerClient,
  startWorkerProcess,
  type WorkerClient,
} from "../../test/support/worker-process.js";
import { isProgram } from "../support/child.js";
import { median } from "../support/stats.js";
import { takeTurns, type Turns } from "../support/turns.js";
import type { AmongOthersRun, LoadRun, Workload } from "./workload.js";

/** One answer as its client saw it. */
type Seen = {
  /** Clock of each token's arrival. */
  arrivedMs: number[];
  cachedTokens: number;
  prefix: PrefixName | undefined;
};

type Ask = { id: string; text: string; maxTokens: number; prefix?: PrefixName };

async function answer(
  client: WorkerClient,
  ask: Ask,
  signal?: AbortSignal,
  onFirstToken: () => void = () => undefined,
): Promise<Seen> {
  const seen: Seen = { arrivedMs: [], cachedTokens: 0, prefix: undefined };
  const stream = client.generate(
    {
      sequenceId: ask.id,
      generation: 1n,
      model: embeddedModelId,
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
    if (event.case === "finished") seen.prefix = event.value.prefix;
  }
  return seen;
}

function quantile(values: readonly number[], share: number): number {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))] ?? 0;
}

/** Seconds that the worker's engine has spent in steps. */
async function engineTime(url: string): Promise<{ seconds: number }> {
  const text = await (await fetch(`${url}/metrics`)).text();
  const value = (name: string): number => {
    const line = text
      .split("\n")
      .find((each) => each.startsWith(`leanedge:step_duration_seconds_${name}`));
    return Number(line?.slice(line.lastIndexOf(" ") + 1));
  };
  return { seconds: value("sum") };
}

async function stepsOf(client: WorkerClient): Promise<number> {
  return Number((await client.getStatus({})).steps);
}

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
async function engineShare(
  looks: readonly { atMs: number; engine: Promise<{ seconds: number }> }[],
): Promise<number> {
  const [from, to] = looks;
  if (from === undefined || to === undefined) throw new Error("nobody looked twice");
  const seconds = (await to.engine).seconds - (await from.engine).seconds;
  return (1000 * seconds) / (to.atMs - from.atMs);
}

/** Starts a worker; a turn runs the workload, or a part of it, against it. */
export async function openLoad(workload: Workload): Promise<Turns<LoadRun | AmongOthersRun>> {
  const worker = await startWorkerProcess(
    ...["--model", workload.modelPath, "--model-id", embeddedModelId],
    ...["--memory", String(workload.memoryMib)],
  );
  const client = openWorkerClient(worker.url, "2");
  return {
    turn: async (what) => {
      if (what === "throughput") return allSessions(client, worker.url, workload);
      return {
        ...(await shortAmongLong(client, workload)),
        cancelSteps: await stepsAfterCancel(client, workload.prompt),
        residentBytes: residentBytes(worker.pid),
      };
    },
    close: () => worker.kill(),
  };
}

/** All sessions at once, and a second turn of each; none is left behind. */
async function allSessions(
  client: WorkerClient,
  url: string,
  workload: Workload,
): Promise<LoadRun> {
  const sessions = Array.from({ length: workload.sessions }, (_, index) => `s${index}`);
  const { prompt: text, generate: maxTokens } = workload;
  let waiting = sessions.length;
  const decoding: { atMs: number; engine: Promise<{ seconds: number }> }[] = [];
  const look = (): void => {
    decoding.push({ atMs: performance.now(), engine: engineTime(url) });
  };
  const onFirstToken = (): void => {
    if (--waiting === 0) look();
  };
  const first = await Promise.all(
    sessions.map(async (id) => {
      const seen = await answer(client, { id, text, maxTokens }, undefined, onFirstToken);
      if (decoding.length === 1) look();
      return seen;
    }),
  );
  const measured = { ...throughput(first), engineShare: await engineShare(decoding) };

  // Ids of an answer that ran into its limit are all computed but the last one.
  const second = await Promise.all(
    first.map(({ prefix }, index) =>
      answer(client, {
        id: sessions[index] ?? "",
        text: "Go on.",
        maxTokens: 2,
        ...(prefix === undefined ? {} : { prefix }),
      }),
    ),
  );
  const computed = first.map(({ prefix }) => (prefix?.tokens ?? 0) - 1);
  const shares = second.map(({ cachedTokens }, i) => cachedTokens / (computed[i] ?? Infinity));
  await Promise.all(sessions.map((sequenceId) => client.release({ sequenceId, generation: 1n })));
  return { ...measured, cachedShare: Math.min(...shares, 1) };
}

/** A short prompt while four long ones are read and some sessions answer. */
async function shortAmongLong(
  client: WorkerClient,
  { prompt, longPrompt }: Workload,
): Promise<Pick<AmongOthersRun, "firstTokenSteps" | "firstTokenMs">> {
  const leaving = new AbortController();
  const background = [
    ...[1, 2, 3, 4].map((n) => ({ id: `long${n}`, text: longText(longPrompt, n), maxTokens: 4 })),
    ...[1, 2, 3, 4].map((n) => ({ id: `busy${n}`, text: prompt, maxTokens: 2_000 })),
  ].map((ask) => answer(client, ask, leaving.signal).catch(() => undefined));
  // The long ones are under way, and far from their ends.
  const before = await stepsOf(client);
  while ((await stepsOf(client)) < before + 12);
  const rounds: { steps: number; ms: number }[] = [];
  for (let round = 0; round < 3; round++) {
    const steps = await stepsOf(client);
    const startMs = performance.now();
    const ended = await answer(client, { id: `short${round}`, text: prompt, maxTokens: 1 });
    const after = await stepsOf(client);
    // Both looks wait for a step of their own at most.
    rounds.push({ steps: after - steps, ms: (ended.arrivedMs[0] ?? Infinity) - startMs });
  }
  leaving.abort();
  await Promise.all(background);
  return {
    firstTokenSteps: median(rounds.map(({ steps }) => steps)),
    firstTokenMs: median(rounds.map(({ ms }) => ms)),
  };
}

/** About so many tokens of text: a token is a short word or half of one. */
function longText(tokens: number, seed: number): string {
  return Array.from({ length: Math.floor(tokens / 2) }, (_, i) => `the ${(i * seed) % 10}`).join(
    " ",
  );
}

/** Engine steps between the moment that a client leaves and the last step for it. */
async function stepsAfterCancel(client: WorkerClient, text: string): Promise<number> {
  const leaving = new AbortController();
  let tokens = 0;
  const stream = client.generate(
    {
      sequenceId: "leaves",
      generation: 1n,
      model: embeddedModelId,
      messages: [{ role: Role.USER, text }],
      sampling: { maxTokens: 500, temperature: 0 },
    },
    { signal: leaving.signal },
  );
  // The only one that computes: a prompt in one step, then a token a step.
  const before = await stepsOf(client);
  try {
    for await (const { event } of stream) {
      if (event.case !== "tokens") continue;
      tokens += event.value.ids.length;
      if (tokens >= 10) leaving.abort();
    }
  } catch {
    // It was left.
  }
  while ((await client.getStatus({})).running > 0);
  return (await stepsOf(client)) - before - tokens;
}

function residentBytes(pid: number): number {
  const status = readFileSync(`/proc/${pid}/status`, "utf8");
  return Number(/VmRSS:\s+(\d+) kB/.exec(status)?.[1] ?? 0) * 1024;
}

if (isProgram(import.meta.url)) takeTurns(openLoad);
