/**
 * The same turn at two gateways at once, in every form that they speak.
 *
 * Two Workers in isolates of their own over the same objects: the SessionObject decides, exactly one call begins the turn,
 * and all others join it. Two gateways with storage of their own in front of the same workers: neither knows of the other, and
 * the worker's fencing (generation, sequence id, prefix hash) keeps their answers apart.
 */
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { createLeanedgeClient, type LeanedgeClient } from "../../src/client/index.js";
import { Role } from "../../src/gen/leanedge/v1/session_pb.js";
import { poolVars, startWorkerdPool, type WorkerdPool } from "../support/workerd-pool.js";
import { startWorkerdGateway, type WorkerdGateway } from "../support/workerd-gateway.js";
import { protocols, type Ask, type Protocol } from "./protocols.js";
import { talkPlaced } from "./seen-turn.js";
import { runOne, transcript, type TurnPlan } from "./talk.js";

const names = ["one", "two", "three"];
const callCounts = [2, 8, 32];
type Forms = readonly (readonly [string, Protocol])[];
/** Bare workerd has no front for native gRPC, which becomes gRPC-web there. */
const forms: Forms = protocols.filter(([name]) => !name.startsWith("native gRPC"));
/** Forms without a turn's number: history and sampling say which one they mean. */
const openAi: Forms = forms.filter(([name]) => name.startsWith("OpenAI"));
const numbering: Forms = forms.filter(([name]) => !name.startsWith("OpenAI"));
const alike: readonly (readonly [string, Forms])[] = [
  ["all forms", numbering.flatMap((form, at) => [form, ...openAi.slice(at, at + 1)])],
  ["OpenAI", openAi],
];
const maxTokens = 60;
const questions = ["What is at the harbor?", "Who lives in the garden?"] as const;
const sampling = { temperature: 0 };

let second: WorkerdGateway;
let pool: WorkerdPool;
let client: LeanedgeClient;
let secondClient: LeanedgeClient;
/** Answers to the questions that nobody disturbed. */
const calm: string[] = [];

beforeAll(async () => {
  second = await startWorkerdGateway({ vars: poolVars });
  pool = await startWorkerdPool({
    names,
    others: 1,
    workerOptions: ["--pool", second.url],
  });
  client = createLeanedgeClient({ baseUrl: pool.gateway.url, key: pool.gateway.key });
  secondClient = createLeanedgeClient({ baseUrl: second.url, key: second.key });
  for (const [index, text] of questions.entries()) {
    calm.push((await runOne(client, `calm ${index}`, 1, { text, maxTokens }, sampling)).text);
  }
  // Comes again until the workers have made themselves known there.
  await runOne(secondClient, "first", 1, { text: "Hello", maxTokens: 2 }, sampling);
});

afterAll(async () => {
  await pool.close();
  await second.close();
});

/** Tokens that all workers have generated. */
async function generatedTokens(): Promise<number> {
  const statuses = await Promise.all(names.map((name) => pool.client(name).getStatus({})));
  return statuses.reduce((sum, { generatedTokens: tokens }) => sum + Number(tokens), 0);
}

/** One call's whole answer. */
async function answerOf(protocol: Protocol, url: string, key: string, ask: Ask): Promise<string> {
  const gateway = { url, key, grpcAddress: "" };
  let text = "";
  for await (const piece of protocol(gateway, ask, new AbortController().signal)) text += piece;
  return text;
}

/** Makes calls for turn 1 at once: over the addresses in turn, and over the forms at each. */
function callAll(
  count: number,
  among: Forms,
  addresses: readonly { readonly url: string; readonly key: string; readonly text: string }[],
  sessionId: string,
): Promise<string[]> {
  return Promise.all(
    Array.from({ length: count }, (_, index) => {
      const address = addresses[index % addresses.length];
      const form = among[Math.floor(index / addresses.length) % among.length];
      if (address === undefined || form === undefined) throw new Error("there is nobody to call");
      const { url, key, text } = address;
      return answerOf(form[1], url, key, { sessionId, text, maxTokens });
    }),
  );
}

describe.each(alike)("two Workers over the same objects: %s", (name, among) => {
  it.each(callCounts)("run a turn that %i calls begin exactly once", async (count) => {
    const sessionId = `begun by ${count} over ${name}`;
    const [text] = questions;
    const before = await generatedTokens();
    const answers = await callAll(
      count,
      among,
      pool.gateway.urls.map((url) => ({ url, key: pool.gateway.key, text })),
      sessionId,
    );
    expect(answers).toEqual(answers.map(() => calm[0]));
    expect((await generatedTokens()) - before).toBe(maxTokens);
    expect(await transcript(client, sessionId)).toEqual([
      { turn: 1, role: Role.USER, text },
      { turn: 1, role: Role.ASSISTANT, text: calm[0] },
    ]);
    const { session } = await client.sessions.getSession({ sessionId });
    expect(session).toMatchObject({ lastTurn: 1, runningTurn: 0 });
    // None took the turn for another one and made a fork of it.
    const { sessions } = await client.sessions.listSessions({ pageSize: 1_000 });
    expect(sessions.filter(({ forkedFrom }) => forkedFrom === sessionId)).toEqual([]);
  });
});

describe("two gateways with storage of their own before the same workers", () => {
  it.each(callCounts)("answer %i calls of one session id, each its own question", async (count) => {
    const sessionId = `named the same by ${count}`;
    const addresses = [pool.gateway, second].map(({ url, key }, index) => ({
      url,
      key,
      text: questions[index] ?? "",
    }));
    const answers = await callAll(count, forms, addresses, sessionId);
    expect(answers).toEqual(answers.map((_, index) => calm[index % 2]));
    for (const [index, each] of [client, secondClient].entries()) {
      const stored = await transcript(each, sessionId);
      expect(stored.map(({ text }) => text)).toEqual([questions[index], calm[index]]);
    }
  });
});

describe("two gateways that hold the same sequence, since one's storage is a copy of the other's", () => {
  const rounds = 4;
  const before: readonly TurnPlan[] = [
    { text: "Tell me what is at the market.", maxTokens: 10 },
    { text: "Tell me what is on the bridge.", maxTokens: 10 },
  ];
  /** Long enough that both run at once. */
  const answerTokens = 250;

  it("answer the next turn each for itself, whoever of them the worker hears last", async () => {
    const sessionId = "twin";
    const asked = questions.map((text) => ({ text, maxTokens: answerTokens }));
    // What each conversation is without the other.
    const alone: string[][] = [];
    for (const [index, plan] of asked.entries()) {
      const plans = [...before, ...Array.from({ length: rounds }, () => plan)];
      const turns = await talkPlaced(client, `alone ${index}`, 1, plans);
      alone.push(turns.slice(before.length).map(({ text }) => text));
    }
    const told = await talkPlaced(client, sessionId, 1, before);
    expect(new Set(told.map(({ worker }) => worker)).size).toBe(1);
    await pool.gateway.kill();
    await second.kill();
    await second.copyFrom(pool.gateway);
    await pool.gateway.start();
    await second.start();

    for (let round = 0; round < rounds; round++) {
      const turn = before.length + 1 + round;
      const answers = await Promise.all(
        [client, secondClient].map(async (each, index) => {
          const plan = asked[index];
          if (plan === undefined) throw new Error("there is no question");
          return runOne(each, sessionId, turn, plan, sampling);
        }),
      );
      expect(answers.map(({ text }) => text)).toEqual(alone.map((texts) => texts[round]));
      for (const { text, textBytes } of answers) {
        expect(new TextEncoder().encode(text)).toHaveLength(textBytes);
      }
    }
    for (const [index, each] of [client, secondClient].entries()) {
      const stored = await transcript(each, sessionId);
      expect(stored.map(({ text }) => text)).toEqual([
        ...before.flatMap(({ text }, at) => [text, told[at]?.text]),
        ...Array.from({ length: rounds }, (_, round) => [
          questions[index],
          alone[index]?.[round],
        ]).flat(),
      ]);
    }
  });
});
