/**
 * Sessions whose worker errs in the middle of an answer, or before it: three CPU workers behind a gateway in the Workers
 * runtime, one of which a faulty front spoils. Whatever it does, the client's stream goes on after the last token that it got,
 * none twice, none missing, the text is that of an undisturbed run, and the pool opens the worker's breaker.
 */
import { create } from "@bufbuild/protobuf";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { createLeanedgeClient, type LeanedgeClient } from "../../src/client/index.js";
import { poolViewMs, workerDoubtAskMs, workerDoubtMs } from "../../src/gateway/limits.js";
import { BreakerState } from "../../src/gen/leanedge/pool/v1/pool_pb.js";
import { FinishReason, PlacementReason } from "../../src/gen/leanedge/v1/session_pb.js";
import {
  GenerateResponseSchema,
  PrefixNameSchema,
  SegmentKind,
  type GenerateResponse,
  type PrefixName,
} from "../../src/gen/leanedge/worker/v1/worker_pb.js";
import { startBehindFront, type Fault, type FaultyWorker } from "../support/faulty-worker.js";
import { poolTokenVars } from "../support/pool-workers.js";
import { startWorkerdPool, type WorkerdPool } from "../support/workerd-pool.js";
import { runOne, transcript, type Sampling, type TurnPlan, type TurnSeen } from "./talk.js";

const faultyName = "faulty";
const samplings: readonly Sampling[] = [
  { temperature: 0 },
  { temperature: 0.8, topP: 0.95, seed: 20_261_122n },
  { temperature: 0 },
];
const plans: readonly [TurnPlan, TurnPlan, TurnPlan] = [
  { text: "The special magic number for harbor is 4827193.", maxTokens: 6 },
  { text: "It was a dark night, and the old man sat down by the fire.", maxTokens: 80 },
  { text: "What is the special magic number for harbor?", maxTokens: 14 },
];
/** Events of tokens that pass before a fault in mid-answer. */
const eventsBefore = 3;
/** Between two events of a worker that is slow: longer than the gateway gathers tokens, shorter than it doubts. */
const slowMs = 30;
/** Until the pool has noticed something, on a busy machine. */
const noticeMsMax = 60_000;

/** A session's three turns as nothing disturbed them. */
interface Calm {
  readonly turns: readonly TurnSeen[];
  readonly messages: Awaited<ReturnType<typeof transcript>>;
}

let pool: WorkerdPool;
let client: LeanedgeClient;
let faulty: FaultyWorker;
const calm: Calm[] = [];

beforeAll(async () => {
  pool = await startWorkerdPool({ names: [] });
  client = createLeanedgeClient({ baseUrl: pool.gateway.url, key: pool.gateway.key });
  faulty = await startBehindFront(pool, faultyName);
  // Sessions that begin now are bound to it.
  for (const { name } of [...faults, ...delays, spoilt, otherLog, hangs]) await begin(name);
  await pool.start("one");
  await pool.start("two");
  for (const [index, sampling] of samplings.entries()) {
    const session = `calm ${index}`;
    const turns: TurnSeen[] = [];
    for (const [before, plan] of plans.entries()) {
      turns.push(await runOne(client, session, before + 1, plan, sampling));
    }
    calm.push({ turns, messages: await transcript(client, session) });
  }
});

afterAll(async () => {
  await pool.close();
  await faulty.close();
});

/** Begins one session for each sampling. */
async function begin(name: string): Promise<void> {
  await Promise.all(
    samplings.map((sampling, index) => runOne(client, `${name} ${index}`, 1, plans[0], sampling)),
  );
}

/** Closes the faulty worker's breaker, and waits until the gateway has heard of it. */
async function forgive(): Promise<void> {
  faulty.spoil(undefined);
  await pool.admin.resumeWorker({ name: faultyName });
  await hearsOfPool();
}

/** Waits until the gateway knows how the pool stands now. */
async function hearsOfPool(): Promise<void> {
  // Older than an isolate trusts a view: the first look asks the pool, and the second one sees its answer.
  await new Promise((resolve) => setTimeout(resolve, poolViewMs + 100));
  for (let look = 0; look < 2; look++) {
    const response = await fetch(`${pool.gateway.url}/v1/status`, {
      headers: { authorization: `Bearer ${pool.gateway.key}` },
    });
    expect(response.status).toBe(200);
  }
}

/** Waits until the faulty worker's breaker has opened. On a slow machine it is half-open by the time that somebody looks. */
async function expectOpened(): Promise<void> {
  await expect
    .poll(async () => (await pool.state(faultyName)).breaker, { timeout: noticeMsMax })
    .toSatisfy((state) => state === BreakerState.OPEN || state === BreakerState.HALF_OPEN);
}

/** The tokens of a turn, as its client saw them. */
function told({ text, completionTokens, finishReason, textBytes }: TurnSeen): unknown {
  return { text, completionTokens, finishReason, textBytes };
}

/** Runs a turn; says who accepted it, and the counts of tokens in the order of its deltas. */
async function seenTurn(
  session: string,
  turn: number,
  plan: TurnPlan,
  sampling: Sampling,
): Promise<TurnSeen & { placement: PlacementReason; counts: number[] }> {
  let placement = PlacementReason.UNSPECIFIED;
  const counts: number[] = [];
  const seen = await runOne(client, session, turn, plan, sampling, (event) => {
    if (event.type === "started") placement = event.started.placement;
    if (event.type === "delta") counts.push(event.completionTokens);
  });
  return { ...seen, placement, counts };
}

/** Name of the worker that a session is bound to. */
async function workerOf(sessionId: string): Promise<string> {
  const { session } = await client.sessions.getSession({ sessionId });
  return session?.worker.replace("pool:default/", "") ?? "";
}

/** Calls that failed on a worker, as /metrics tells it. */
async function failuresCounted(worker = faultyName): Promise<number> {
  const response = await fetch(`${pool.gateway.url}/metrics`, {
    headers: { authorization: `Bearer ${poolTokenVars.LEANEDGE_ADMIN_TOKEN}` },
  });
  const [, count] =
    new RegExp(
      `^leanedge:pool_worker_failures_total\\{.*worker="${worker}".*\\} (\\d+)$`,
      "m",
    ).exec(await response.text()) ?? [];
  expect(count).toBeDefined();
  return Number(count);
}

/** Events in which something is changed after the first ones with tokens. */
async function* changed(
  events: AsyncIterable<GenerateResponse>,
  change: (event: GenerateResponse) => GenerateResponse,
): AsyncGenerator<GenerateResponse> {
  let seen = 0;
  for await (const event of events) {
    if (event.event.case === "tokens") seen++;
    yield seen > eventsBefore ? change(event) : event;
  }
}

/** A fault in mid-answer: what is done after the first events with tokens, instead of all others. */
function after(act: (call: Parameters<Fault>[0]) => Promise<never>): Fault {
  return async function* (call) {
    let seen = 0;
    for await (const event of call.forward()) {
      yield event;
      if (event.event.case === "tokens" && ++seen === eventsBefore) await act(call);
    }
  };
}

/** A fault before the first event. */
function atOnce(act: (call: Parameters<Fault>[0]) => Promise<never>): Fault {
  return async function* (call) {
    yield await act(call);
  };
}

/** Bytes of one frame. */
function frame(flags: number, length: number, payload: Uint8Array): Uint8Array {
  const bytes = new Uint8Array(5 + payload.length);
  bytes[0] = flags;
  new DataView(bytes.buffer).setUint32(1, length);
  bytes.set(payload, 5);
  return bytes;
}

/** Sends bytes past the protocol, and nothing after them. */
function sends(bytes: Uint8Array): (call: Parameters<Fault>[0]) => Promise<never> {
  return async (call) => {
    await call.write(bytes);
    return call.hang();
  };
}

/** Says that it lacks the prefix, whatever it is sent, and what it holds instead. */
function lacks(have: (named: PrefixName | undefined) => PrefixName | undefined): Fault {
  return async function* ({ request }) {
    await Promise.resolve();
    const value = { have: have(request.prefix) };
    yield create(GenerateResponseSchema, { event: { case: "prefixMissing", value } });
  };
}

const text = new TextEncoder();
const faults: readonly { readonly name: string; readonly fault: Fault }[] = [
  { name: "closes without a trailer before it accepts", fault: atOnce((call) => call.end()) },
  { name: "closes without a trailer in mid-answer", fault: after((call) => call.end()) },
  {
    name: "sends bytes that are no frame before it accepts",
    fault: atOnce(sends(text.encode("HTTP/1.1 500 Oops\r\n\r\n"))),
  },
  {
    name: "sends a frame that is no message",
    fault: after(sends(frame(0, 4, Uint8Array.of(255, 255, 255, 255)))),
  },
  {
    name: "announces a frame of 1 GiB",
    fault: after(sends(frame(0, 1 << 30, new Uint8Array(64)))),
  },
  {
    name: "sends ids outside the vocabulary",
    fault: ({ forward }) =>
      changed(forward(), (event) => {
        if (event.event.case === "tokens") event.event.value.ids = [1 << 30];
        return event;
      }),
  },
  {
    name: "leaves a gap in the text",
    fault: ({ forward }) =>
      changed(forward(), (event) => {
        if (event.event.case === "tokens") event.event.value.offset += 3n;
        return event;
      }),
  },
  {
    name: "repeats other text than it sent",
    fault: ({ forward }) =>
      changed(forward(), (event) => {
        if (event.event.case === "tokens") {
          event.event.value.offset -= 3n;
          event.event.value.text = `~~~${event.event.value.text}`;
        }
        return event;
      }),
  },
  {
    name: "loses tokens, and counts them at the end",
    fault: ({ forward }) =>
      changed(forward(), (event) => {
        if (event.event.case === "tokens") event.event.value.ids = [];
        return event;
      }),
  },
  {
    name: "counts a prompt that it was not sent",
    fault: ({ forward, request }) => forward({ ...request, prefix: undefined, log: [] }),
  },
  {
    name: "says that it holds the prefix, and asks for it again",
    fault: lacks((named) => named),
  },
];

/** What a worker may do without being at fault: it stays, and the answer is what it should be. */
const delays: readonly { readonly name: string; readonly fault: Fault }[] = [
  {
    name: "answers slowly",
    fault: async function* ({ forward }) {
      for await (const event of forward()) {
        await new Promise((resolve) => setTimeout(resolve, slowMs));
        yield event;
      }
    },
  },
  {
    name: "says nothing for longer than it is doubted, while its pool hears it",
    fault: async function* ({ forward }) {
      let seen = 0;
      for await (const event of forward()) {
        yield event;
        if (event.event.case === "tokens" && ++seen === eventsBefore) {
          await new Promise((resolve) => setTimeout(resolve, workerDoubtMs + 2 * workerDoubtAskMs));
        }
      }
    },
  },
  { name: "says that it holds more than was ever sent", fault: lacksOnce({ more: 5 }) },
  { name: "names another hash of what it holds", fault: lacksOnce({ otherHash: true }) },
  { name: "says that it holds less than it does", fault: lacksOnce({ nothing: true }) },
];

/** Lacks the prefix at first, and lies about what it holds instead; then it does what it is told. */
function lacksOnce(lie: {
  readonly more?: number;
  readonly otherHash?: boolean;
  readonly nothing?: boolean;
}): Fault {
  const lied = new Set<string>();
  return async function* ({ request, forward }) {
    const { prefix, sequenceId } = request;
    if (prefix === undefined || lied.has(sequenceId)) {
      yield* forward();
      return;
    }
    lied.add(sequenceId);
    const more = lie.more === undefined ? [] : [lie.more];
    const have = create(
      PrefixNameSchema,
      lie.nothing === true
        ? {}
        : {
            tokens: prefix.tokens + (lie.more ?? 0),
            sha256: lie.otherHash === true ? new Uint8Array(32) : prefix.sha256,
            segmentTokens: [...prefix.segmentTokens, ...more],
            segmentKinds: [...prefix.segmentKinds, ...more.map(() => SegmentKind.PROMPT)],
          },
    );
    yield create(GenerateResponseSchema, { event: { case: "prefixMissing", value: { have } } });
  };
}

describe("a worker that only costs time", () => {
  it.each(delays)("$name: it keeps its session", async ({ name, fault }) => {
    const failuresBefore = await failuresCounted();
    faulty.spoil(fault);
    const stories = await Promise.all(
      samplings.map((sampling, index) => seenTurn(`${name} ${index}`, 2, plans[1], sampling)),
    );
    expect(faulty.spoilt).toBeGreaterThanOrEqual(samplings.length);
    for (const [index, seen] of stories.entries()) {
      expect(told(seen)).toEqual(told(calm[index]?.turns[1] ?? seen));
      expect(seen).toMatchObject({ reconnects: 0, placement: PlacementReason.BOUND });
      expect(await workerOf(`${name} ${index}`)).toBe(faultyName);
    }
    faulty.spoil(undefined);
    expect(await failuresCounted()).toBe(failuresBefore);
  });
});

describe("a worker that errs", () => {
  it.each(faults)("$name: another one goes on", async ({ name, fault }) => {
    await forgive();
    const failuresBefore = await failuresCounted();
    faulty.spoil(fault);
    const stories = await Promise.all(
      samplings.map((sampling, index) => seenTurn(`${name} ${index}`, 2, plans[1], sampling)),
    );
    // Each of them met the fault.
    expect(faulty.spoilt).toBeGreaterThanOrEqual(samplings.length);
    for (const [index, seen] of stories.entries()) {
      expect(told(seen)).toEqual(told(calm[index]?.turns[1] ?? seen));
      expect(seen.reconnects).toBe(0);
      expect(await workerOf(`${name} ${index}`)).not.toBe(faultyName);
      // None twice, none missing.
      expect(seen.counts).toEqual([...seen.counts].sort((a, b) => a - b));
      expect(new TextEncoder().encode(seen.text)).toHaveLength(seen.textBytes);
    }
    await expectOpened();
    expect(await failuresCounted()).toBeGreaterThanOrEqual(failuresBefore + samplings.length);

    // The worker that took over holds the session, cache and all.
    for (const [index, sampling] of samplings.entries()) {
      const session = `${name} ${index}`;
      const before = stories[index];
      const seen = await seenTurn(session, 3, plans[2], sampling);
      expect(told(seen)).toEqual(told(calm[index]?.turns[2] ?? seen));
      expect(seen.placement).toBe(PlacementReason.BOUND);
      expect(seen.cachedTokens).toBeGreaterThanOrEqual(
        (before?.promptTokens ?? 0) + (before?.completionTokens ?? 0) - 1,
      );
      expect(await transcript(client, session)).toEqual(calm[index]?.messages);
    }
  });
});

/** Text that its ids do not make: what was shown cannot be taken back. */
const spoilt: { readonly name: string; readonly fault: Fault } = {
  name: "adds text to its answer",
  fault: ({ forward }) => {
    let added = false;
    return changed(forward(), (event) => {
      if (event.event.case === "tokens" && !added) {
        event.event.value.text += "~~~";
        added = true;
      }
      return event;
    });
  },
};

/** Reads another conversation than it was sent, and counts as if it had not. */
const otherLog: { readonly name: string; readonly fault: Fault } = {
  name: "answers from another conversation",
  fault: async function* ({ request, forward }) {
    const known = request.prefix?.tokens ?? 0;
    const elsewhere = {
      ...request,
      prefix: undefined,
      log: [],
      sequenceId: `~${request.sequenceId}`,
    };
    for await (const event of forward(elsewhere)) {
      if (event.event.case === "accepted") event.event.value.promptTokens += known;
      yield event;
    }
  },
};

describe("a worker whose answer is not what it seems", () => {
  it("adds text to its answer: the answer ends as failed, and no other worker is blamed", async () => {
    const { name, fault } = spoilt;
    await forgive();
    const before = await Promise.all(
      [faultyName, "one", "two"].map((worker) => failuresCounted(worker)),
    );
    faulty.spoil(fault);
    const stories = await Promise.all(
      samplings.map((sampling, index) => seenTurn(`${name} ${index}`, 2, plans[1], sampling)),
    );
    faulty.spoil(undefined);
    for (const [index, seen] of stories.entries()) {
      expect(seen.finishReason).toBe(FinishReason.ERROR);
      expect(seen.text).toContain("~~~");
      expect(calm[index]?.turns[1]?.text).not.toContain(seen.text);
    }
    await expect
      .poll(
        () => Promise.all([faultyName, "one", "two"].map((worker) => failuresCounted(worker))),
        {
          timeout: noticeMsMax,
        },
      )
      .toEqual([(before[0] ?? 0) + samplings.length, before[1], before[2]]);
    // The session itself goes on.
    const next = await seenTurn(`${name} 0`, 3, plans[2], samplings[0] ?? {});
    expect(next.finishReason).toBe(FinishReason.LENGTH);
  });

  it("answers from another conversation: it loses the session, and its breaker opens", async () => {
    const { name, fault } = otherLog;
    await forgive();
    const failuresBefore = await failuresCounted();
    faulty.spoil(fault);
    const stories = await Promise.all(
      samplings.map((sampling, index) => seenTurn(`${name} ${index}`, 2, plans[1], sampling)),
    );
    expect(faulty.spoilt).toBe(samplings.length);
    expect(stories.map(({ finishReason }) => finishReason)).toEqual(
      samplings.map(() => FinishReason.LENGTH),
    );
    await expectOpened();
    expect(await failuresCounted()).toBeGreaterThanOrEqual(failuresBefore + samplings.length);
    await seenTurn(`${name} 0`, 3, plans[2], samplings[0] ?? {});
    expect(await workerOf(`${name} 0`)).not.toBe(faultyName);
  });
});

/** The process stands still, and its heartbeats with it. */
const hangs = { name: "hangs" };
const longPlan: TurnPlan = { text: plans[1].text, maxTokens: 600 };

describe("a worker that hangs", () => {
  it("is given up once its pool misses it, and disturbs nothing when it goes on", async () => {
    const quiet = "calm beside the one that hangs";
    const [sampling = {}] = samplings;
    const expected = [
      await seenTurn(quiet, 1, plans[0], sampling),
      await seenTurn(quiet, 2, longPlan, sampling),
      await seenTurn(quiet, 3, plans[2], sampling),
      await seenTurn(quiet, 4, plans[2], sampling),
    ];
    await forgive();
    const { name } = hangs;
    const worker = pool.workers.get(faultyName);
    if (worker === undefined) throw new Error("the faulty worker is gone");
    // One session is in the middle of its answer; the other one asks when the worker stands still already.
    let second: Promise<TurnSeen> | undefined;
    let tokensAtStop = 0;
    const first = await runOne(client, `${name} 0`, 2, longPlan, sampling, (event) => {
      if (event.type !== "delta" || second !== undefined) return;
      worker.signal("SIGSTOP");
      tokensAtStop = event.completionTokens;
      second = runOne(client, `${name} 2`, 2, longPlan, sampling);
    });
    if (second === undefined) throw new Error("no token arrived");
    for (const seen of [first, await second]) {
      expect(told(seen)).toEqual(told(expected[1] ?? seen));
      expect(seen.reconnects).toBe(0);
    }
    expect(tokensAtStop).toBeLessThan(first.completionTokens);
    const sessions = [`${name} 0`, `${name} 2`];
    for (const session of sessions) expect(await workerOf(session)).not.toBe(faultyName);

    // It goes on: what it still had to say reaches nobody, and it ends the calls that nobody reads.
    worker.signal("SIGCONT");
    await pool.ready(faultyName);
    await expect
      .poll(async () => (await pool.client(faultyName).getStatus({})).running, {
        timeout: noticeMsMax,
      })
      .toBe(0);
    await hearsOfPool();
    for (const session of sessions) {
      const third = await seenTurn(session, 3, plans[2], sampling);
      expect(told(third)).toEqual(told(expected[2] ?? third));
      expect(third.placement).toBe(PlacementReason.BOUND);
    }

    // Back on it, where an older cache of the session lies under an older generation.
    await forgive();
    for (const other of ["one", "two"]) await pool.admin.drainWorker({ name: other });
    await hearsOfPool();
    for (const session of sessions) {
      const fourth = await seenTurn(session, 4, plans[2], sampling);
      expect(told(fourth)).toEqual(told(expected[3] ?? fourth));
      expect(fourth.placement).toBe(PlacementReason.MOVED);
      expect(await workerOf(session)).toBe(faultyName);
    }
    for (const other of ["one", "two"]) await pool.admin.resumeWorker({ name: other });
  });
});
