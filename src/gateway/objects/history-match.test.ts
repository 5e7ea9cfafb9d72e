import { create } from "@bufbuild/protobuf";
import { describe, expect, it } from "vitest";
import { SamplingParamsSchema } from "../../gen/leanedge/v1/sampling_pb.js";
import {
  Backend,
  FinishReason,
  GenerateRequestSchema,
  MessageSchema,
  PlacementReason,
  Role,
} from "../../gen/leanedge/v1/session_pb.js";
import type { Message } from "../../gen/leanedge/v1/session_pb.js";
import { hashRequest, hashSampling, matchHistory } from "./history-match.js";
import type { HistorySource } from "./history-match.js";
import type { MessageRecord, TurnRecord } from "./session-records.js";

const roles = { s: Role.SYSTEM, u: Role.USER, a: Role.ASSISTANT } as const;

/** Messages from `u:hello`, `a:hi`. */
function history(...lines: string[]): Message[] {
  return lines.map((line) => {
    const role = roles[line[0] as keyof typeof roles];
    return create(MessageSchema, { role, text: line.slice(2) });
  });
}

interface Turn {
  /** Messages of its request, and its answer last unless it runs. */
  readonly lines: readonly string[];
  readonly running?: boolean;
  readonly finishReason?: FinishReason;
  readonly idempotencyKey?: string;
  readonly temperature?: number;
  /** It was begun by a call that numbered it. */
  readonly numbered?: boolean;
}

function session(...turns: Turn[]): HistorySource {
  const messages: MessageRecord[] = [];
  const records: TurnRecord[] = [];
  turns.forEach((turn, index) => {
    const number = index + 1;
    const running = turn.running ?? false;
    turn.lines.forEach((line, at) => {
      const answer = !running && at === turn.lines.length - 1;
      if (answer) records.push(record(number, turn, messages));
      const [message] = history(line);
      messages.push({
        position: messages.length,
        turn: number,
        role: message?.role ?? Role.UNSPECIFIED,
        text: message?.text ?? "",
        answer,
        createMs: 0,
      });
    });
    if (running) records.push(record(number, turn, messages));
  });
  return {
    messages: () => messages,
    turn: (number) => records.find((candidate) => candidate.number === number),
    lastTurn: () => records.length,
    turnByIdempotencyKey: (key) => records.find((candidate) => candidate.idempotencyKey === key),
  };
}

function record(number: number, turn: Turn, messages: readonly MessageRecord[]): TurnRecord {
  const sent = messages
    .filter((message) => message.text !== "")
    .map(({ role, text }) => create(MessageSchema, { role, text }));
  const sampling = create(SamplingParamsSchema, { temperature: turn.temperature ?? 1 });
  return {
    number,
    running: turn.running ?? false,
    messagesHash: new Uint8Array(),
    requestHash: turn.numbered === true ? hashSampling(sampling) : hashRequest(sent, sampling),
    idempotencyKey: turn.idempotencyKey ?? "",
    // What defaults and a drawn seed have made of it.
    sampling: create(SamplingParamsSchema, { ...sampling, seed: 7n, topK: 40 }),
    detach: false,
    requestId: "",
    startMs: 0,
    endMs: 0,
    orphanMs: 0,
    attempts: 1,
    accepted: true,
    promptTokens: 0,
    cachedTokens: 0,
    completionTokens: 0,
    textBytes: 0,
    finishReason: turn.finishReason ?? FinishReason.STOP,
    errorMessage: "",
    model: "m",
    backend: Backend.WASM,
    worker: "w",
    placement: PlacementReason.UNSPECIFIED,
    allowFallback: undefined,
    cacheBytes: 0,
    ticket: "",
  };
}

function match(
  source: HistorySource,
  lines: readonly string[],
  options: {
    readonly temperature?: number;
    readonly key?: string;
    readonly seed?: bigint;
  } = {},
): ReturnType<typeof matchHistory> {
  const request = create(GenerateRequestSchema, {
    messages: history(...lines),
    sampling: {
      temperature: options.temperature ?? 1,
      ...(options.seed === undefined ? {} : { seed: options.seed }),
    },
  });
  return matchHistory(source, request, { idempotencyKey: options.key ?? "", sessionId: "root" });
}

const oneTurn = session({ lines: ["s:brief", "u:one", "a:1"] });
const twoTurns = session({ lines: ["u:one", "a:1"] }, { lines: ["u:two", "a:2"] });

describe("matchHistory()", () => {
  it("begins an empty session with all of it", () => {
    const result = match(session(), ["s:brief", "u:one", "a:1", "u:two"]);
    expect(result).toMatchObject({ kind: "turn", turn: 1 });
    expect(result.kind === "turn" && result.messages).toHaveLength(4);
  });

  it("continues with what is new", () => {
    const result = match(oneTurn, ["s:brief", "u:one", "a:1", "u:two", "u:more"]);
    expect(result).toMatchObject({
      kind: "turn",
      turn: 2,
      messages: [{ text: "two" }, { text: "more" }],
    });
  });

  it("takes the same request for a retry, of any turn", () => {
    expect(match(twoTurns, ["u:one", "a:1", "u:two"])).toMatchObject({
      kind: "turn",
      turn: 2,
      messages: [],
    });
    expect(match(twoTurns, ["u:one"])).toMatchObject({ kind: "turn", turn: 1, messages: [] });
  });

  it("joins the same request while it runs", () => {
    const running = session({ lines: ["u:one"], running: true });
    expect(match(running, ["u:one"])).toMatchObject({ kind: "turn", turn: 1, messages: [] });
  });

  it.each([true, false])("joins or replays a turn that was numbered (running: %s)", (running) => {
    const numbered = session({
      lines: running ? ["u:one"] : ["u:one", "a:1"],
      running,
      numbered: true,
    });
    const turn = { kind: "turn", turn: 1, messages: [] };
    expect(match(numbered, ["u:one"])).toMatchObject(turn);
    expect(match(numbered, ["u:one"], { key: "k" })).toMatchObject(turn);
    for (const other of [{ seed: 8n }, { temperature: 0.5 }]) {
      expect(match(numbered, ["u:one"], other)).toMatchObject({ kind: "fork", turn: 0 });
    }
    expect(match(numbered, ["u:other"])).toMatchObject({ kind: "fork", turn: 0 });
  });

  it("forks where another request comes while one runs", () => {
    const running = session({ lines: ["u:one", "a:1"] }, { lines: ["u:two"], running: true });
    expect(match(running, ["u:one", "a:1", "u:other"])).toMatchObject({ kind: "fork", turn: 1 });
    expect(match(running, ["u:one", "a:1", "u:two", "u:more"])).toMatchObject({
      kind: "fork",
      turn: 1,
    });
  });

  it("forks at the last turn that both share", () => {
    expect(match(twoTurns, ["u:one", "a:1", "u:other"])).toMatchObject({ kind: "fork", turn: 1 });
    expect(match(twoTurns, ["u:other"])).toMatchObject({ kind: "fork", turn: 0 });
    expect(match(twoTurns, ["u:one", "a:edited", "u:two"])).toMatchObject({
      kind: "fork",
      turn: 0,
    });
    expect(match(twoTurns, ["u:one", "a:1", "u:two", "a:edited", "u:x"])).toMatchObject({
      kind: "fork",
      turn: 1,
    });
  });

  it("answers the same history anew with another sampling", () => {
    expect(match(twoTurns, ["u:one", "a:1", "u:two"], { temperature: 0 })).toMatchObject({
      kind: "fork",
      turn: 1,
    });
  });

  it("finds a fork again from every later request", () => {
    const first = match(twoTurns, ["u:one", "a:1", "u:other"]);
    const later = match(twoTurns, ["u:one", "a:1", "u:other", "a:x", "u:y", "a:z", "u:w"]);
    expect(later).toEqual(first);
    const elsewhere = match(twoTurns, ["u:one", "a:1", "u:third"]);
    expect(elsewhere).not.toEqual(first);
  });

  it("tells forks apart that share their instructions", () => {
    const first = match(oneTurn, ["s:brief", "u:a"]);
    const second = match(oneTurn, ["s:brief", "u:b"]);
    expect(first).toMatchObject({ kind: "fork", turn: 0 });
    expect(second).not.toEqual(first);
  });

  it.each([FinishReason.CANCELLED, FinishReason.ERROR])(
    "does not replay an answer that ended with %i",
    (finishReason) => {
      const cut = session({ lines: ["u:one", "a:1"], finishReason });
      expect(match(cut, ["u:one"])).toMatchObject({ kind: "fork", turn: 0 });
    },
  );

  it("looks past an answer without text, which no client knows", () => {
    const cut = session({ lines: ["u:one", "a:"], finishReason: FinishReason.CANCELLED });
    expect(match(cut, ["u:one", "u:two"])).toMatchObject({
      kind: "turn",
      turn: 2,
      messages: [{ text: "two" }],
    });
  });

  it("lets an idempotency key decide", () => {
    const keyed = session({ lines: ["u:one", "a:1"], idempotencyKey: "k" });
    expect(match(keyed, ["u:one"], { key: "k" })).toMatchObject({ kind: "turn", turn: 1 });
    expect(match(keyed, ["u:one"])).toMatchObject({ kind: "turn", turn: 1 });
    expect(match(keyed, ["u:one"], { key: "other" })).toMatchObject({ kind: "fork", turn: 0 });
    expect(() => match(keyed, ["u:two"], { key: "k" })).toThrow(
      'the idempotency key "k" was used for another request',
    );
    const cut = session({
      lines: ["u:one", "a:1"],
      idempotencyKey: "k",
      finishReason: FinishReason.CANCELLED,
    });
    expect(match(cut, ["u:one"], { key: "k" })).toMatchObject({ kind: "turn", turn: 1 });
  });
});
