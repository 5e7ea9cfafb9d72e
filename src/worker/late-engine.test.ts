/** A worker over an engine that computes elsewhere: nothing but stats is called while it does. */
import type { Client } from "@connectrpc/connect";
import { beforeEach, describe, expect, it } from "vitest";
import { Role } from "../gen/leanedge/v1/session_pb.js";
import type { PrefixName, WorkerService } from "../gen/leanedge/worker/v1/worker_pb.js";
import { lateEngine, type LateEngine } from "./testing/late-engine.js";
import { ModelEngine } from "./testing/model-engine.js";
import { openWorker } from "./testing/open-worker.js";
import type { RunningWorker } from "./worker-service.js";

const stepMs = 4;
let inner: ModelEngine;
let late: LateEngine;
let worker: RunningWorker;
let client: Client<typeof WorkerService>;

beforeEach(() => {
  inner = new ModelEngine({ cacheBytes: 40_000 });
  late = lateEngine(inner, stepMs);
  ({ worker, client } = openWorker(late.engine, { name: "late" }));
});

async function run(
  sequenceId: string,
  maxTokens: number,
  prefix?: PrefixName,
  signal?: AbortSignal,
): Promise<{ ids: number[]; prefix: PrefixName | undefined }> {
  const ids: number[] = [];
  let name: PrefixName | undefined;
  const stream = client.generate(
    {
      sequenceId,
      generation: 1n,
      model: "m",
      messages: [{ role: Role.USER, text: "hello" }],
      sampling: { maxTokens },
      ...(prefix === undefined ? {} : { prefix }),
    },
    { signal },
  );
  for await (const { event } of stream) {
    if (event.case === "tokens") ids.push(...event.value.ids);
    if (event.case === "finished") name = event.value.prefix;
  }
  return { ids, prefix: name };
}

describe("a worker whose engine computes elsewhere", () => {
  it("leaves it alone while a step is pending, whatever comes meanwhile", async () => {
    const first = await run("a", 10);
    const calls = Array.from({ length: 6 }, async (_, index) => {
      await new Promise((resolve) => setTimeout(resolve, index * 7));
      await client.getStatus({});
      const copy = `copy-${index}`;
      await client.fork({ sequenceId: "a", prefix: first.prefix, newSequenceId: copy });
      const answer = await run(copy, 8, first.prefix);
      await client.release({ sequenceId: copy, generation: 1n });
      return answer.ids;
    });
    const long = run("b", 60);
    const answers = await Promise.all(calls);
    for (const ids of answers) expect(ids).toEqual(answers[0]);
    expect((await long).ids).toHaveLength(60);
    expect(late.violations).toEqual([]);
  });

  it("sends what a step gave while the next one is computed", async () => {
    const stepping: boolean[] = [];
    const stream = client.generate({
      sequenceId: "s",
      generation: 1n,
      model: "m",
      messages: [{ role: Role.USER, text: "hello" }],
      sampling: { maxTokens: 12 },
    });
    let last = "";
    for await (const { event } of stream) {
      if (event.case === "tokens") stepping.push(late.stepping());
      last = event.case ?? "";
    }
    expect(last).toBe("finished");
    // After the last token there is nothing to compute.
    expect(stepping).toEqual([...Array<boolean>(11).fill(true), false]);
    expect(late.violations).toEqual([]);
  });

  it("ends an answer without waiting for a step of others", async () => {
    const other = run("other", 60);
    const stepsAt = new Map<string, number>();
    const stream = client.generate({
      sequenceId: "s",
      generation: 1n,
      model: "m",
      messages: [{ role: Role.USER, text: "hello" }],
      sampling: { maxTokens: 4 },
    });
    for await (const { event } of stream) stepsAt.set(event.case ?? "", inner.stats().steps);
    expect(stepsAt.get("finished")).toBe(stepsAt.get("tokens"));
    expect((await other).ids).toHaveLength(60);
    expect(inner.stats().steps).toBeGreaterThan(50);
    expect(late.violations).toEqual([]);
  });

  it("keeps borders and log together where a call was left in the middle of a step", async () => {
    const calm = await run("calm", 12);
    const leave = new AbortController();
    const left = run("s", 50, undefined, leave.signal).catch(() => undefined);
    await new Promise((resolve) => setTimeout(resolve, 8 * stepMs));
    leave.abort();
    await left;
    // The step that was pending has drawn one more token than anybody has seen.
    const again = await run("s", 12);
    expect(again.ids).toEqual(calm.ids);
    expect(again.prefix).toEqual(calm.prefix);
    expect(late.violations).toEqual([]);
  });

  it("gives all back when it ends in the middle of a step", async () => {
    const running = run("s", 50).catch(() => undefined);
    await new Promise((resolve) => setTimeout(resolve, 5 * stepMs));
    worker.close();
    await running;
    await new Promise((resolve) => setTimeout(resolve, 2 * stepMs));
    const { cacheBytes, cacheBytesFree } = inner.stats();
    expect(cacheBytesFree).toBe(cacheBytes);
    expect(late.violations).toEqual([]);
  });
});
