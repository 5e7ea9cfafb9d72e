/**
 * A worker that is killed in the middle of an answer: the stream goes on from another one after the last token that the
 * client got, and the text is that of an undisturbed run. The gateway in the Workers runtime, three CPU workers.
 */
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { createLeanedgeClient, type LeanedgeClient } from "../../src/client/index.js";
import { WorkerState } from "../../src/gen/leanedge/pool/v1/pool_pb.js";
import { PlacementReason } from "../../src/gen/leanedge/v1/session_pb.js";
import { longStory } from "../support/conversation.js";
import { startPool, type RunningPool } from "../support/running-pool.js";
import { runOne, talk, transcript, type Sampling, type TurnSeen } from "./talk.js";

const names = ["one", "two", "three"];
const samplings: readonly (readonly [string, Sampling])[] = [
  ["temperature 0", { temperature: 0 }],
  ["a seed", { temperature: 0.8, topP: 0.95, seed: 20_261_122n }],
];
const before = [
  { text: "The special magic number for harbor is 4827193.", maxTokens: 14 },
  { text: "What is the special magic number for harbor mentioned in the text?", maxTokens: 14 },
];
const story = { text: longStory, maxTokens: 100 };
const after = [
  { text: "What is the special magic number for harbor mentioned in the text?", maxTokens: 14 },
];
/** Bytes that the client has when the worker is killed. */
const bytesBeforeKill = 80;

let pool: RunningPool;
let client: LeanedgeClient;

beforeAll(async () => {
  // No cache is saved between turns: what a killed worker held is lost.
  pool = await startPool(names, ["--snapshot-idle", "3600"]);
  client = createLeanedgeClient({ baseUrl: pool.gateway.url, key: pool.gateway.key });
});

afterAll(() => pool.close());

/** The tokens of a turn, as its client saw them. */
function told({ text, completionTokens, finishReason, textBytes }: TurnSeen): unknown {
  return { text, completionTokens, finishReason, textBytes };
}

describe("a worker that is killed in the middle of an answer", () => {
  it.each(samplings)(
    "is replaced: the stream is that of an undisturbed run, at %s",
    async (name, sampling) => {
      const calm = `calm at ${name}`;
      const undisturbed = [
        ...(await talk(client, calm, 1, before, sampling)),
        await runOne(client, calm, 3, story, sampling),
        ...(await talk(client, calm, 4, after, sampling)),
      ];

      const session = `killed at ${name}`;
      const disturbed = await talk(client, session, 1, before, sampling);
      const tokens: number[] = [];
      const placements: PlacementReason[] = [];
      let victim = "";
      let killed: Promise<void> | undefined;
      const answer = await runOne(client, session, 3, story, sampling, (event, text) => {
        if (event.type === "started") {
          const { started } = event;
          placements.push(started.placement);
          if (victim === "") victim = started.worker;
        }
        if (event.type !== "delta") return;
        tokens.push(event.completionTokens);
        if (killed === undefined && new TextEncoder().encode(text).length >= bytesBeforeKill) {
          killed = pool.kill(victim);
        }
      });
      await killed;
      disturbed.push(answer, ...(await talk(client, session, 4, after, sampling)));

      // It was in the middle of the answer, and the client's own stream never broke.
      expect(killed).toBeDefined();
      expect(answer.textBytes).toBeGreaterThan(bytesBeforeKill);
      expect(answer.reconnects).toBe(0);
      expect(placements.at(-1)).toBe(PlacementReason.BOUND);
      // No byte twice, none missing.
      expect(new TextEncoder().encode(answer.text)).toHaveLength(answer.textBytes);
      expect(tokens).toEqual([...new Set(tokens)].sort((a, b) => a - b));
      expect(disturbed.map(told)).toEqual(undisturbed.map(told));
      expect(await transcript(client, session)).toEqual(await transcript(client, calm));

      // The binding changed once, and holds: the turn after finds its cache there.
      const { session: bound } = await client.sessions.getSession({ sessionId: session });
      expect(bound?.worker).not.toBe(`pool:default/${victim}`);
      expect(disturbed[3]?.cachedTokens).toBeGreaterThanOrEqual(
        answer.promptTokens + answer.completionTokens - 1,
      );

      // The pool notices, and takes the worker back when a new process of it comes.
      await expect
        .poll(async () => (await pool.state(victim)).state, { timeout: 15_000 })
        .toBe(WorkerState.NOT_READY);
      await pool.start(victim);
    },
  );
});
