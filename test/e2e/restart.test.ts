/**
 * A gateway that is killed in the middle of an answer, while other sessions are idle: no client gets another byte than
 * without it. Of each session there are two, one at temperature 0 and one with a seed; the engine computes all of them in one
 * batch, and one restart is for all.
 */
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { createLeanedgeClient, type LeanedgeClient } from "../../src/client/index.js";
import { FinishReason, Role } from "../../src/gen/leanedge/v1/session_pb.js";
import { longStory } from "../support/conversation.js";
import { startGateway, type RunningGateway } from "../support/running-gateway.js";
import { runOne, talk, transcript } from "./talk.js";
import type { Sampling, TurnPlan, TurnSeen } from "./talk.js";

const samplings: readonly Sampling[] = [
  { temperature: 0 },
  { temperature: 0.8, topP: 0.95, seed: 20_261_122n },
];
const killedTurn = 15;
/** Bytes that both clients have when the gateway is killed. */
const bytesBeforeKill = 60;
/** Turns of the sessions that are idle when it is killed. */
const idleTurns = 20;

const places = ["harbor", "garden", "bridge", "market", "tower"];
const plans: readonly TurnPlan[] = Array.from({ length: 30 }, (_, index) => {
  const place = places[index % places.length] ?? "";
  if (index + 1 === killedTurn) return { text: longStory, maxTokens: 120 };
  return index % 2 === 0
    ? { text: `The special magic number for ${place} is ${4_827_193 + index}.`, maxTokens: 14 }
    : {
        text: `What is the special magic number for ${place} mentioned in the text?`,
        maxTokens: 14,
      };
});

let gateway: RunningGateway;
let client: LeanedgeClient;
/** Each the turns of a session, one for each sampling. */
let undisturbed: TurnSeen[][];
let beforeKill: TurnSeen[][];

/** Tokens of the log that a turn finds in the cache: all, but the last one of an answer that was cut off. */
function cachedAfter({ promptTokens, completionTokens, finishReason }: TurnSeen): number {
  return promptTokens + completionTokens - (finishReason === FinishReason.LENGTH ? 1 : 0);
}

function both<T>(run: (sampling: Sampling, index: number) => Promise<T>): Promise<T[]> {
  return Promise.all(samplings.map(run));
}

beforeAll(async () => {
  // No cache is saved between turns: what is lost here is lost.
  gateway = await startGateway("--snapshot-idle", "3600");
  client = createLeanedgeClient({ baseUrl: gateway.url, key: gateway.key, protocol: "grpc-web" });
  [undisturbed, beforeKill] = await Promise.all([
    both((sampling, index) => talk(client, `calm-${index}`, 1, plans, sampling)),
    both((sampling, index) =>
      talk(client, `killed-${index}`, 1, plans.slice(0, killedTurn - 1), sampling),
    ),
    both((sampling, index) =>
      talk(client, `idle-${index}`, 1, plans.slice(0, idleTurns), sampling),
    ),
  ]);
});

afterAll(() => gateway.close());

describe("an undisturbed session of 30 turns", () => {
  it("finds all earlier tokens in the cache, at every turn", () => {
    for (const turns of undisturbed) {
      expect(turns).toHaveLength(plans.length);
      expect(turns[0]?.cachedTokens).toBe(0);
      for (const [index, turn] of turns.slice(1).entries()) {
        const before = turns[index];
        if (before === undefined) throw new Error("there is no turn before");
        expect(turn.cachedTokens).toBe(cachedAfter(before));
        expect(turn.promptTokens).toBeGreaterThan(before.promptTokens + before.completionTokens);
      }
    }
  });
});

describe("a gateway that is killed while turn 15 streams", () => {
  it("gives every byte once, and 30 turns, none twice", async () => {
    const name = (index: number): string => `killed-${index}`;
    const cutAt = samplings.map(() => 0);
    let restarted: Promise<void> | undefined;
    const plan = plans[killedTurn - 1];
    if (plan === undefined) throw new Error("there is no such turn");
    const killed = await both((sampling, index) =>
      runOne(client, name(index), killedTurn, plan, sampling, (event, text) => {
        const bytes = new TextEncoder().encode(text).length;
        if (event.type === "delta" && restarted === undefined) {
          cutAt[index] = bytes;
          if (cutAt.every((at) => at >= bytesBeforeKill)) restarted = gateway.restart();
        }
      }),
    );
    await restarted;
    const tail = plans.slice(killedTurn);
    const after = await both((sampling, index) =>
      talk(client, name(index), killedTurn + 1, tail, sampling),
    );

    for (const [index, calm] of undisturbed.entries()) {
      const whole = killed[index];
      const cut = cutAt[index] ?? 0;
      if (whole === undefined) throw new Error("turn 15 is missing");
      // It really was in the middle of the answer, and the client noticed.
      expect(cut).toBeGreaterThanOrEqual(bytesBeforeKill);
      expect(cut).toBeLessThan(whole.textBytes);
      expect(whole.reconnects).toBeGreaterThanOrEqual(1);
      // The stream: no byte twice, none lost. The answer: that of the undisturbed session.
      expect(new TextEncoder().encode(whole.text)).toHaveLength(whole.textBytes);
      const turns = [...(beforeKill[index] ?? []), whole, ...(after[index] ?? [])];
      expect(turns.map((turn) => turn.text)).toEqual(calm.map((turn) => turn.text));
      expect(turns.map((turn) => turn.completionTokens)).toEqual(
        calm.map((turn) => turn.completionTokens),
      );
      // Read again from its start once, from the cache ever after.
      expect(whole.cachedTokens).toBe(0);
      expect(turns[killedTurn]?.cachedTokens).toBe(cachedAfter(whole));

      const stored = await transcript(client, name(index));
      expect(stored).toEqual(await transcript(client, `calm-${index}`));
      expect(stored).toEqual(
        plans.flatMap(({ text }, at) => [
          { turn: at + 1, role: Role.USER, text },
          { turn: at + 1, role: Role.ASSISTANT, text: turns[at]?.text ?? "" },
        ]),
      );
      const { session } = await client.sessions.getSession({ sessionId: name(index) });
      expect(session).toMatchObject({ lastTurn: 30, runningTurn: 0, messageCount: 60 });
    }
  });

  it("answers sessions that were idle as if nothing had happened, and says that nothing was cached", async () => {
    const next = plans.slice(idleTurns, idleTurns + 2);
    const after = await both((sampling, index) =>
      talk(client, `idle-${index}`, idleTurns + 1, next, sampling),
    );
    for (const [index, calm] of undisturbed.entries()) {
      const [first, second] = after[index] ?? [];
      if (first === undefined || second === undefined) throw new Error("turns are missing");
      expect(first.text).toBe(calm[idleTurns]?.text);
      expect(second.text).toBe(calm[idleTurns + 1]?.text);
      expect(first.promptTokens).toBe(calm[idleTurns]?.promptTokens);
      expect(first.cachedTokens).toBe(0);
      expect(second.cachedTokens).toBe(cachedAfter(first));
    }
  });
});
