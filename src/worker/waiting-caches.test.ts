/** Caches of calls that do not compute: those that wait in the queue, and those whose answer is there but not read. */
import { createHandlerContext } from "@connectrpc/connect";
import { create } from "@bufbuild/protobuf";
import { describe, expect, it } from "vitest";
import { Role } from "../gen/leanedge/v1/session_pb.js";
import {
  GenerateRequestSchema,
  WorkerService,
  type Finished,
  type GenerateResponse,
  type PrefixName,
} from "../gen/leanedge/worker/v1/worker_pb.js";
import { ModelEngine, modelPageBytes, modelSequenceBytes } from "./testing/model-engine.js";
import { openWorker } from "./testing/open-worker.js";

function start(cacheBytes: number) {
  const engine = new ModelEngine({ cacheBytes });
  const { client, worker } = openWorker(engine);
  const request = (sequenceId: string, maxTokens: number, prefix?: PrefixName, text = "hello") =>
    create(GenerateRequestSchema, {
      sequenceId,
      generation: 1n,
      model: "m",
      messages: [{ role: Role.USER, text }],
      sampling: { maxTokens },
      ...(prefix === undefined ? {} : { prefix }),
    });
  const run = async (...of: Parameters<typeof request>) => {
    const ids: number[] = [];
    let queued = 0;
    let finished: Finished | undefined;
    for await (const { event } of client.generate(request(...of))) {
      if (event.case === "accepted") ({ queued } = event.value);
      if (event.case === "tokens") ids.push(...event.value.ids);
      if (event.case === "finished") finished = event.value;
    }
    if (finished === undefined) throw new Error("the answer did not end");
    return { ids, finished, queued };
  };
  return { engine, request, run, worker };
}

describe("memory that was promised to a job", () => {
  it("is there although calls behind it in the queue hold caches", async () => {
    const pages = 4;
    const large = modelSequenceBytes + pages * modelPageBytes;
    const { run } = start(large + modelSequenceBytes - 1);
    const a = await run("a", 5);
    const b = await run("b", 5);
    const undisturbed = start(1 << 20);
    const aloneA = await undisturbed.run("a", 5);
    const expected = await undisturbed.run("a", 6, aloneA.finished.prefix);
    // Does not fit beside the first: it waits, and the others wait behind it with what they have.
    const [, grown, again, last] = await Promise.all([
      run("first", 30),
      run("large", 5, undefined, "x".repeat(64 + pages * 32 - 20)),
      run("a", 6, a.finished.prefix),
      run("b", 6, b.finished.prefix),
    ]);
    expect(Math.min(again.queued, last.queued)).toBeGreaterThan(0);
    expect(grown.ids).toHaveLength(5);
    expect(again.ids).toEqual(expected.ids);
    // Both had to be read again, and their answers say so.
    expect([again, last].map(({ finished }) => finished.usage?.cachedTokens)).toEqual([0, 0]);
  });
});

describe("an answer that is there and not read", () => {
  it("leaves its cache to others, and is read to its end all the same", async () => {
    const { engine, request, run, worker } = start(modelSequenceBytes);
    const context = createHandlerContext({
      ...{ service: WorkerService, method: WorkerService.method.generate },
      ...{ protocolName: "connect", requestMethod: "POST", url: "http://worker" },
    });
    const stream = worker.service.generate(request("slow", 5), context);
    const events = (stream as AsyncIterable<GenerateResponse>)[Symbol.asyncIterator]();
    expect((await events.next()).value).toMatchObject({ event: { case: "accepted" } });
    await expect.poll(() => engine.stats().rows).toBeGreaterThan(15);
    await new Promise((resolve) => setTimeout(resolve, 20));
    expect((await run("other", 5)).ids).toHaveLength(5);
    const rest: GenerateResponse["event"][] = [];
    for (let next = await events.next(); next.done !== true; next = await events.next()) {
      rest.push(next.value.event);
    }
    expect(rest.at(-1)).toMatchObject({ case: "finished", value: { generatedTokens: 5 } });
  });
});
