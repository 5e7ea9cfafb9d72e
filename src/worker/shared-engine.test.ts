/** Two workers on one engine, as the gateway's objects of one isolate are: its table of sequences is both's. */
import { describe, expect, it } from "vitest";
import { Role } from "../gen/leanedge/v1/session_pb.js";
import { ModelEngine } from "./testing/model-engine.js";
import { openWorker, type OpenWorker } from "./testing/open-worker.js";

async function run({ client }: OpenWorker, sequenceId: string): Promise<number> {
  let tokens = 0;
  for await (const { event } of client.generate({
    sequenceId,
    generation: 1n,
    model: "m",
    messages: [{ role: Role.USER, text: "hello" }],
    sampling: { maxTokens: 5 },
  })) {
    if (event.case === "finished") tokens = event.value.generatedTokens;
  }
  return tokens;
}

describe("an engine's table that two workers have filled", () => {
  function start(): [OpenWorker, OpenWorker] {
    const engine = new ModelEngine({ sequencesMax: 4 });
    const one: OpenWorker = openWorker(engine, {
      relieveTable: () => other.worker.releaseOldestIdle(),
    });
    const other: OpenWorker = openWorker(engine, {
      relieveTable: () => one.worker.releaseOldestIdle(),
    });
    return [one, other];
  }

  it("has room for one that lets an idle sequence of its own go", async () => {
    const [one, other] = start();
    for (const id of ["a", "b", "c"]) expect(await run(one, id)).toBe(5);
    expect(await run(other, "d")).toBe(5);
    expect(await run(other, "e")).toBe(5);
    expect((await one.client.getStatus({})).sequences).toBe(3);
    expect((await other.client.getStatus({})).sequences).toBe(1);
  });

  it("has room for one that has none where the other has an idle one", async () => {
    const [one, other] = start();
    for (const id of ["a", "b", "c", "d"]) expect(await run(one, id)).toBe(5);
    expect(await run(other, "e")).toBe(5);
    expect((await one.client.getStatus({})).sequences).toBe(3);
  });
});
