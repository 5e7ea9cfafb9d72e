/** Forks where the engine has no room left, and of logs that mean something else. */
import { Code, ConnectError } from "@connectrpc/connect";
import { describe, expect, it } from "vitest";
import { Role } from "../gen/leanedge/v1/session_pb.js";
import type { PrefixName } from "../gen/leanedge/worker/v1/worker_pb.js";
import { ModelEngine, type ModelEngineOptions } from "./testing/model-engine.js";
import { openWorker } from "./testing/open-worker.js";

function start(options: ModelEngineOptions = {}) {
  const engine = new ModelEngine(options);
  const { client } = openWorker(engine);
  const run = async (sequenceId: string, prefix?: PrefixName) => {
    let cachedTokens: number | undefined;
    let name: PrefixName | undefined;
    for await (const { event } of client.generate({
      sequenceId,
      generation: 1n,
      model: "m",
      messages: [{ role: Role.USER, text: "hello" }],
      sampling: { maxTokens: 8 },
      ...(prefix === undefined ? {} : { prefix }),
    })) {
      if (event.case === "accepted") ({ cachedTokens } = event.value);
      if (event.case === "finished") name = event.value.prefix;
    }
    return { cachedTokens, prefix: name };
  };
  const codeOf = async (call: Promise<unknown>): Promise<Code | undefined> => {
    try {
      await call;
    } catch (error) {
      if (error instanceof ConnectError) return error.code;
      throw error;
    }
    return undefined;
  };
  return { client, codeOf, run };
}

describe("a fork where the engine's table is full", () => {
  it("lets another sequence go than the one that it copies, however old that is", async () => {
    const { client, run } = start({ sequencesMax: 2 });
    const { prefix } = await run("oldest");
    await run("other");
    const tokens = prefix?.tokens ?? 0;
    expect(
      await client.fork({ sequenceId: "oldest", prefix, newSequenceId: "copy" }),
    ).toMatchObject({ cachedTokens: tokens - 1 });
    // Both are there to go on with; the other one went.
    expect((await run("oldest", prefix)).cachedTokens).toBe(tokens - 1);
    expect((await run("copy", prefix)).cachedTokens).toBe(tokens - 1);
  });

  it("is refused where nothing else can go, and leaves what it would copy", async () => {
    const { client, codeOf, run } = start({ sequencesMax: 1 });
    const { prefix } = await run("only");
    expect(await codeOf(client.fork({ sequenceId: "only", prefix, newSequenceId: "copy" }))).toBe(
      Code.ResourceExhausted,
    );
    expect((await run("only", prefix)).cachedTokens).toBe((prefix?.tokens ?? 0) - 1);
  });
});

describe("a fork of a prefix under other fingerprints", () => {
  it.each([{ model: "other" }, { template: "other" }, { plan: "other" }])(
    "as %j is of a log that the worker does not have",
    async (other) => {
      const { client, codeOf, run } = start();
      const { prefix } = await run("s");
      const fork = (fingerprints: object) =>
        client.fork({
          sequenceId: "s",
          newSequenceId: "copy",
          prefix: {
            tokens: prefix?.tokens ?? 0,
            sha256: prefix?.sha256 ?? new Uint8Array(),
            segmentTokens: prefix?.segmentTokens ?? [],
            segmentKinds: prefix?.segmentKinds ?? [],
            fingerprints,
          },
        });
      expect(await codeOf(fork(other))).toBe(Code.NotFound);
      // What is not said is not checked.
      expect(await codeOf(fork({}))).toBeUndefined();
    },
  );
});
