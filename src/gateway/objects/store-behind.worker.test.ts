/** What a session shows before it is stored, and what becomes of it when its object is lost. */
import { runInDurableObject } from "cloudflare:test";
import { Code } from "@connectrpc/connect";
import { describe, expect, it } from "vitest";
import { FinishReason } from "../../gen/leanedge/v1/session_pb.js";
import type { GenerateResponse } from "../../gen/leanedge/v1/session_pb.js";
import { resumeHashBytes } from "../limits.js";
import { sha256 } from "../sha256.js";
import {
  beginTurn,
  errorOf,
  inStore,
  newTenant,
  runTurn,
  scripted,
  scriptedEngine,
  sessionClient,
  sessionObject,
  storeOf,
  user,
  words,
} from "../testing/gateway-clients.js";
import type { Script, ScriptedCall } from "../testing/scripted-engine.js";
import type { SessionStore } from "./session-store.js";

/** Most times that a test tries to come before a commit. */
const triesMax = 10;

/** What is stored of a session's first turn. */
interface Stored {
  /** Undefined: nothing of the turn is. */
  readonly running: boolean | undefined;
  /** Tokens of its running answer. */
  readonly tokens: number;
}

function storedOf(store: SessionStore): Stored {
  return { running: store.turn(1)?.running, tokens: store.pieces().at(-1)?.tokensEnd ?? 0 };
}

function stored(tenant: string): Promise<Stored> {
  return inStore(tenant, "s", storedOf);
}

/** Ends the object at once, as a crash does; what was stored then. */
async function crash(tenant: string): Promise<Stored> {
  const found: Stored[] = [];
  await runInDurableObject(sessionObject(tenant, "s"), (_instance, state) => {
    found.push(storedOf(storeOf(state.storage, tenant, "s")));
    state.abort("a crash, as the test wants it");
  }).catch(() => undefined);
  const [last] = found;
  if (last === undefined) throw new Error("the object was not reached");
  return last;
}

/** Times that a client comes back. */
const returnsMax = 3;

/** A turn whose client reads as far as the test wants, and comes back with what it has where its stream breaks. */
class Reader {
  readonly tenant: string;
  readonly #client: ReturnType<typeof sessionClient>;
  readonly #script: Script;
  readonly #note = crypto.randomUUID();
  #events: AsyncIterator<GenerateResponse>;
  #text = "";
  #returns = 0;

  private constructor(tenant: string, key: string, script: Script) {
    this.tenant = tenant;
    this.#client = sessionClient(key);
    this.#script = script;
    this.#events = this.#open();
  }

  static async begin(script: Script): Promise<Reader> {
    const { tenant, key } = await newTenant();
    return new Reader(tenant, key, script);
  }

  /** Reads until the answer has this many bytes. */
  async read(bytes: number): Promise<void> {
    while (this.#text.length < bytes) {
      const event = await this.#next();
      if (event?.case === "finished") throw new Error(`it ended at ${this.#text.length} bytes`);
    }
  }

  /** Reads to the end; the whole answer. */
  async finish(): Promise<{ text: string; finishReason: FinishReason }> {
    for (;;) {
      const event = await this.#next();
      if (event?.case === "finished") {
        return { text: this.#text, finishReason: event.value.finishReason };
      }
    }
  }

  #open(): AsyncIterator<GenerateResponse> {
    const stream = this.#client.generate({
      sessionId: "s",
      turn: 1,
      messages: [scripted(this.#script, this.#note)],
      resumeOffset: BigInt(this.#text.length),
      resumeHash: hashOf(this.#text),
    });
    return stream[Symbol.asyncIterator]();
  }

  /** The next event; undefined where the stream broke and was opened again. */
  async #next(): Promise<GenerateResponse["event"] | undefined> {
    try {
      const result = await this.#events.next();
      if (result.done === true) throw new Error("the stream ended before the turn");
      const { event } = result.value;
      if (event.case === "delta") {
        expect(Number(event.value.offset)).toBe(this.#text.length);
        this.#text += event.value.text;
      }
      return event;
    } catch (error) {
      if (++this.#returns > returnsMax) throw error;
      this.#events = this.#open();
      return undefined;
    }
  }

  /** Calls that the worker saw. */
  async calls(): Promise<ScriptedCall[]> {
    const seen = await scriptedEngine().seenCalls();
    const sequences = new Set(
      seen
        .filter(({ messages }) => messages.some((text) => text.includes(this.#note)))
        .map(({ sequenceId }) => sequenceId),
    );
    return seen.filter(({ sequenceId }) => sequences.has(sequenceId));
  }
}

function hashOf(text: string): Uint8Array {
  return sha256(text).subarray(0, resumeHashBytes);
}

describe("an object that is lost between showing and storing", () => {
  it("begins its first turn anew where nothing of it was stored, with the same seed", async () => {
    for (let tries = 1; ; tries++) {
      const reader = await Reader.begin({ tokens: 60, delayMs: 5 });
      await reader.read(9);
      const { running } = await crash(reader.tenant);
      expect(await reader.finish()).toEqual({ text: words(60), finishReason: FinishReason.STOP });
      const calls = await reader.calls();
      expect(new Set(calls.map(({ seed }) => seed)).size).toBe(1);
      if (running === undefined) {
        expect(calls.map(({ resumedTokens }) => resumedTokens)).toEqual([undefined, undefined]);
        return;
      }
      // The machine was slow, and the turn stored already.
      expect(tries).toBeLessThan(triesMax);
    }
  });

  it("goes on from what was stored in mid-answer; its client sees nothing twice and misses nothing", async () => {
    for (let tries = 1; ; tries++) {
      const reader = await Reader.begin({ tokens: 200, delayMs: 4 });
      await reader.read(9);
      await expect.poll(async () => (await stored(reader.tenant)).tokens).toBeGreaterThan(0);
      const { tokens } = await stored(reader.tenant);
      // Some tokens more than are stored.
      await reader.read(words(Math.min(tokens + 12, 199)).length);
      const before = await crash(reader.tenant);
      expect(await reader.finish()).toEqual({ text: words(200), finishReason: FinishReason.STOP });
      const calls = (await reader.calls()).filter(({ outcome }) => outcome === "accepted");
      expect(calls.map(({ resumedTokens }) => resumedTokens)).toEqual([undefined, before.tokens]);
      if (before.tokens === tokens) {
        return;
      }
      expect(tries).toBeLessThan(triesMax);
    }
  });

  it("ends its turn as it would have, lost between the last token and the end", async () => {
    const reader = await Reader.begin({ tokens: 6, hangAt: 6, hangTimes: 1 });
    await reader.read(words(6).length);
    await crash(reader.tenant);
    expect(await reader.finish()).toEqual({ text: words(6), finishReason: FinishReason.STOP });
    expect((await stored(reader.tenant)).running).toBe(false);
  });

  it("has the end of a turn stored when its client is told of it", async () => {
    const { tenant, key } = await newTenant();
    const client = sessionClient(key);
    const messages = [scripted({})];
    for await (const { event } of client.generate({ sessionId: "s", turn: 1, messages })) {
      if (event.case === "finished") break;
    }
    expect((await crash(tenant)).running).toBe(false);
    expect((await client.listMessages({ sessionId: "s" })).messages).toHaveLength(2);
  });
});

describe("a detached turn", () => {
  it("is stored before its client hears of it", async () => {
    const { tenant, key } = await newTenant();
    const leave = new AbortController();
    const stream = sessionClient(key).generate(
      { sessionId: "s", turn: 1, messages: [scripted({ hangAt: 0 })], detach: true },
      { signal: leave.signal },
    );
    const first = await stream[Symbol.asyncIterator]().next();
    expect(first.done === true ? undefined : first.value.event.case).toBe("started");
    expect((await crash(tenant)).running).toBe(true);
    leave.abort();
    expect(await sessionClient(key).cancelTurn({ sessionId: "s", turn: 1 })).toMatchObject({
      cancelled: true,
    });
  });
});

describe("a client that comes back with more than the answer has", () => {
  const half = words(20);
  const script = { tokens: 40, delayMs: 10 };

  it("waits until the answer has come so far, and goes on there", async () => {
    const { key } = await newTenant();
    const client = sessionClient(key);
    const first = await beginTurn(client, {
      sessionId: "s",
      turn: 1,
      messages: [scripted(script)],
      detach: true,
    });
    const resumeOffset = BigInt(half.length);
    const second = await runTurn(client, {
      sessionId: "s",
      turn: 1,
      resumeOffset,
      resumeHash: hashOf(half),
    });
    expect(second.text).toBe(words(40).slice(half.length));
    expect(second.offsets[0]).toBe(half.length);
    expect((await first.finish()).text).toBe(words(40));
  });

  it("begins the turn by the same call where nothing of it is left", async () => {
    const { key } = await newTenant();
    const turn = await runTurn(sessionClient(key), {
      sessionId: "s",
      turn: 1,
      messages: [scripted({ tokens: 40 })],
      resumeOffset: BigInt(half.length),
      resumeHash: hashOf(half),
    });
    expect(turn.text).toBe(words(40).slice(half.length));
    expect(turn.finished?.finishReason).toBe(FinishReason.STOP);
  });

  it("is told where the answer ends before", async () => {
    const { key } = await newTenant();
    const messages = [scripted({ tokens: 3 })];
    const request = { sessionId: "s", turn: 1, messages, resumeOffset: 100n };
    const waited = await errorOf(runTurn(sessionClient(key), request));
    const bytes = words(3).length;
    const message = `resume_offset is 100, the answer has ${bytes} bytes`;
    expect([waited.code, waited.rawMessage]).toEqual([Code.DataLoss, `${message}, and has ended`]);
    // A client that tells what it has seen did see it.
    const resumeHash = hashOf("something else");
    const later = await errorOf(runTurn(sessionClient(key), { ...request, resumeHash }));
    expect(later.code).toBe(Code.DataLoss);
    const asked = await errorOf(runTurn(sessionClient(key), request));
    expect([asked.code, asked.rawMessage]).toEqual([Code.InvalidArgument, `${message} so far`]);
  });

  it("is told where the answer is another one, while it runs and afterwards", async () => {
    const { key } = await newTenant();
    const client = sessionClient(key);
    const first = await beginTurn(client, {
      sessionId: "s",
      turn: 1,
      messages: [scripted(script)],
      detach: true,
    });
    const request = {
      sessionId: "s",
      turn: 1,
      detach: true,
      resumeOffset: BigInt(half.length),
      resumeHash: hashOf(half.replace("w3", "w4")),
    };
    const expected = [
      Code.DataLoss,
      `the answer was generated anew and differs before byte ${half.length}; ask from offset 0`,
    ];
    const running = await errorOf(runTurn(client, request));
    expect([running.code, running.rawMessage]).toEqual(expected);
    expect((await first.finish()).text).toBe(words(40));
    const ended = await errorOf(runTurn(client, request));
    expect([ended.code, ended.rawMessage]).toEqual(expected);
    const again = await runTurn(client, { ...request, resumeOffset: 0n, resumeHash: hashOf("") });
    expect(again.text).toBe(words(40));
  });

  it("must send a hash of the right length", async () => {
    const { key } = await newTenant();
    const client = sessionClient(key);
    const error = await errorOf(
      runTurn(client, {
        sessionId: "s",
        turn: 1,
        messages: [user("hello")],
        resumeHash: new Uint8Array(32),
      }),
    );
    expect([error.code, error.rawMessage]).toEqual([
      Code.InvalidArgument,
      `resume_hash has 32 bytes, it must have ${resumeHashBytes}`,
    ]);
    expect((await errorOf(client.getSession({ sessionId: "s" }))).code).toBe(Code.NotFound);
  });
});
