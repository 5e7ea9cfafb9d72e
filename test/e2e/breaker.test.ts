/**
 * A worker whose breaker opened gets its place back by itself: two CPU workers behind a gateway in the Workers runtime, one of
 * which a faulty front spoils for a while. Nobody resumes it: its time passes, one session is placed there, and that one's
 * answer closes the breaker.
 */
import { Code, ConnectError } from "@connectrpc/connect";
import { afterAll, beforeAll, expect, it } from "vitest";
import { createLeanedgeClient, type LeanedgeClient } from "../../src/client/index.js";
import { breakerFailuresMax } from "../../src/gateway/limits.js";
import { BreakerState } from "../../src/gen/leanedge/pool/v1/pool_pb.js";
import { FinishReason, PlacementReason } from "../../src/gen/leanedge/v1/session_pb.js";
import { startBehindFront, type Fault, type FaultyWorker } from "../support/faulty-worker.js";
import { startWorkerdPool, type WorkerdPool } from "../support/workerd-pool.js";
import { runOne, type TurnPlan, type TurnSeen } from "./talk.js";

const faultyName = "faulty";
const soundName = "sound";
const plan: TurnPlan = { text: "It was a dark night, and the old man sat down.", maxTokens: 8 };
/** Until the pool has noticed something, on a busy machine. */
const noticeMsMax = 60_000;
/** New sessions until the pool tries the worker again: it draws between two that are hardly busy. */
const trialsMax = 64;

/** Fails every call before it is accepted. */
const refuses: Fault = async function* ({ hang }) {
  await Promise.reject(new ConnectError("nothing works here", Code.Internal));
  yield await hang();
};

let pool: WorkerdPool;
let client: LeanedgeClient;
let faulty: FaultyWorker;

beforeAll(async () => {
  pool = await startWorkerdPool({ names: [] });
  client = createLeanedgeClient({ baseUrl: pool.gateway.url, key: pool.gateway.key });
  faulty = await startBehindFront(pool, faultyName);
});

afterAll(async () => {
  await pool.close();
  await faulty.close();
});

async function breaker(): Promise<BreakerState> {
  return (await pool.state(faultyName)).breaker;
}

/** Runs a turn to its end; says who answered, and why that one. */
async function turn(
  session: string,
  number: number,
): Promise<TurnSeen & { worker: string; placement: PlacementReason }> {
  let worker = "";
  let placement = PlacementReason.UNSPECIFIED;
  const seen = await runOne(client, session, number, plan, { temperature: 0 }, (event) => {
    if (event.type !== "started" || event.started.worker === "") return;
    worker = event.started.worker;
    placement = event.started.placement;
  });
  expect(seen).toMatchObject({ finishReason: FinishReason.LENGTH, reconnects: 0 });
  return { ...seen, worker, placement };
}

it("is tried with one session once its time has passed, and closes with that one's answer", async () => {
  // Sessions that begin while it is alone are bound to it, and as many failures in a row open its breaker.
  const bound = Array.from({ length: breakerFailuresMax }, (_, index) => `bound ${index}`);
  const calm = await Promise.all(bound.map((session) => turn(session, 1)));
  await pool.start(soundName);
  faulty.spoil(refuses);
  const moved = await Promise.all(bound.map((session) => turn(session, 2)));
  for (const { worker } of moved) expect(worker).not.toBe(calm[0]?.worker);
  expect(faulty.spoilt).toBeGreaterThanOrEqual(breakerFailuresMax);
  // Open, or on a machine that stood still half-open already: it is not closed before something was tried.
  await expect.poll(breaker, { timeout: noticeMsMax }).not.toBe(BreakerState.CLOSED);
  faulty.spoil(undefined);

  // While it is open no session gets there.
  const before = await breaker();
  const { worker: other } = await turn("while it is open", 1);
  if (before === BreakerState.OPEN && (await breaker()) === BreakerState.OPEN) {
    expect(other).toBe(moved[0]?.worker);
  }

  // Time alone makes it half-open; nobody resumes it, and it stays so until a session is placed there.
  if (other === moved[0]?.worker) {
    await expect.poll(breaker, { timeout: noticeMsMax }).toBe(BreakerState.HALF_OPEN);
  }
  let tried = "";
  for (let count = 0; tried === "" && count < trialsMax; count++) {
    const { worker, placement } = await turn(`new ${count}`, 1);
    expect(placement).not.toBe(PlacementReason.BOUND);
    if (worker === calm[0]?.worker) tried = `new ${count}`;
  }
  expect(tried).not.toBe("");
  await expect.poll(breaker, { timeout: noticeMsMax }).toBe(BreakerState.CLOSED);

  // It serves as before: the session stays, and finds its cache.
  const next = await turn(tried, 2);
  expect(next).toMatchObject({ worker: calm[0]?.worker, placement: PlacementReason.BOUND });
  expect(next.cachedTokens).toBeGreaterThan(0);
});
