/**
 * What the gateway refuses, with code and message: the same words in every protocol, and the forms that plain HTTP and
 * OpenAI's clients read.
 */
import { createHash, randomBytes } from "node:crypto";
import { create, toBinary } from "@bufbuild/protobuf";
import { Code, ConnectError, createClient, type Client, type Transport } from "@connectrpc/connect";
import * as node from "@connectrpc/connect-node";
import * as web from "@connectrpc/connect-web";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { createLeanedgeClient } from "../../src/client/index.js";
import {
  CreateSessionRequestSchema,
  Role,
  SessionService,
} from "../../src/gen/leanedge/v1/session_pb.js";
import { embeddedConfig } from "../support/embedded-facts.js";
import { longStory, question } from "../support/conversation.js";
import { startGateway, type RunningGateway } from "../support/running-gateway.js";
import { isIdle, statusWhen } from "./engine-status.js";
import { runOne } from "./talk.js";

type Sessions = Client<typeof SessionService>;

/** A body of this size is refused everywhere. */
const hugeBytes = 10 * 1024 * 1024;
const bodyBytesMax = 1024 * 1024;
const { contextTokensMax: window } = await embeddedConfig();
/** More than the window: most words are a token or two. */
const tooLong = "word ".repeat(window + 1_000);
const windowMessage = new RegExp(
  `^the prompt has \\d{4,5} tokens, the model's window is ${window} tokens and the answer needs at least one$`,
);

/** Until the engine has stopped what was left, on a busy machine. */
const idleMsMax = 30_000;
const otherKey = `le-${randomBytes(32).toString("base64url")}`;
let gateway: RunningGateway;

function authorizedBy(key: string | undefined) {
  return [
    (next) => (request) => {
      if (key !== undefined) request.header.set("authorization", `Bearer ${key}`);
      return next(request);
    },
  ] satisfies node.ConnectTransportOptions["interceptors"];
}

const transports: readonly (readonly [string, (key?: string) => Transport])[] = [
  [
    "Connect",
    (key) => web.createConnectTransport({ baseUrl: gateway.url, interceptors: authorizedBy(key) }),
  ],
  [
    "gRPC-web",
    (key) => web.createGrpcWebTransport({ baseUrl: gateway.url, interceptors: authorizedBy(key) }),
  ],
  [
    "gRPC",
    (key) =>
      node.createGrpcTransport({
        baseUrl: `http://${gateway.grpcAddress}`,
        interceptors: authorizedBy(key),
        // Node's own bound of 10 MB a session would make this client fail before the gateway can refuse.
        nodeOptions: { maxSessionMemory: 64 },
      }),
  ],
];

/** What a call is refused with. */
async function refusal(call: Promise<unknown> | AsyncIterable<unknown>) {
  try {
    if (call instanceof Promise) await call;
    else {
      const events = call[Symbol.asyncIterator]();
      while ((await events.next()).done !== true);
    }
  } catch (error) {
    if (!(error instanceof ConnectError)) throw error;
    return { code: Code[error.code], message: error.rawMessage };
  }
  return { code: "none", message: "the call was not refused" };
}

function user(text: string) {
  return { role: Role.USER, text };
}

beforeAll(async () => {
  const hash = createHash("sha256").update(otherKey).digest("hex");
  gateway = await startGateway("--key", `acme:${hash}`);
  const client = createLeanedgeClient({ baseUrl: gateway.url, key: gateway.key });
  await runOne(client, "mine", 1, { text: question, maxTokens: 4 }, { temperature: 0 });
});

afterAll(() => gateway.close());

interface Refused {
  readonly name: string;
  readonly call: (sessions: Sessions) => Promise<unknown> | AsyncIterable<unknown>;
  readonly code: keyof typeof Code;
  readonly message: string | RegExp;
}

const refused: readonly Refused[] = [
  {
    name: "an unknown model, of a new session",
    call: (sessions) => sessions.createSession({ sessionId: "new", model: "nobody" }),
    code: "NotFound",
    message: 'there is no model "nobody"',
  },
  {
    name: "an unknown model, of a first turn",
    call: (sessions) =>
      sessions.generate({ sessionId: "new", turn: 1, model: "nobody", messages: [user("hi")] }),
    code: "NotFound",
    message: 'there is no model "nobody"',
  },
  {
    name: "an unknown session",
    call: (sessions) => sessions.getSession({ sessionId: "nobody" }),
    code: "NotFound",
    message: 'there is no session "nobody"',
  },
  {
    name: "a later turn of an unknown session",
    call: (sessions) => sessions.generate({ sessionId: "nobody", turn: 2, messages: [user("hi")] }),
    code: "NotFound",
    message: 'there is no session "nobody"',
  },
  {
    name: "an empty session id",
    call: (sessions) => sessions.getSession({}),
    code: "InvalidArgument",
    message: "session_id is empty",
  },
  {
    name: "a turn out of order",
    call: (sessions) => sessions.generate({ sessionId: "mine", turn: 3, messages: [user("hi")] }),
    code: "FailedPrecondition",
    message: "turn 3 is not the next one, which is 2",
  },
  {
    name: "a turn that exists with other messages",
    call: (sessions) => sessions.generate({ sessionId: "mine", turn: 1, messages: [user("no")] }),
    code: "AlreadyExists",
    message: "turn 1 exists with other messages",
  },
  {
    name: "a prompt longer than the window",
    call: (sessions) =>
      sessions.generate({ sessionId: "long", turn: 1, messages: [user(tooLong)] }),
    code: "InvalidArgument",
    message: windowMessage,
  },
  {
    name: "more tokens than the window has",
    call: (sessions) =>
      sessions.generate({
        sessionId: "long",
        turn: 1,
        messages: [user("hi")],
        sampling: { maxTokens: window + 1 },
      }),
    code: "InvalidArgument",
    message: `max_tokens is ${window + 1}, the model's window is ${window} tokens`,
  },
  {
    name: "a temperature out of range",
    call: (sessions) =>
      sessions.generate({
        sessionId: "new",
        turn: 1,
        messages: [user("hi")],
        sampling: { temperature: 2.5 },
      }),
    code: "InvalidArgument",
    message: "temperature is 2.5, it must be 0 to 2",
  },
  {
    name: "an empty message",
    call: (sessions) => sessions.generate({ sessionId: "new", turn: 1, messages: [user("")] }),
    code: "InvalidArgument",
    message: "messages[0].text is empty",
  },
  {
    name: "no message",
    call: (sessions) => sessions.generate({ sessionId: "new", turn: 1 }),
    code: "InvalidArgument",
    message: "messages is empty, a new turn needs at least 1",
  },
  {
    name: "an offset past the end of an answer",
    call: (sessions) => sessions.generate({ sessionId: "mine", turn: 1, resumeOffset: 1_000_000n }),
    code: "InvalidArgument",
    message: /^resume_offset is 1000000, the answer has \d+ bytes so far$/,
  },
];

describe.each(transports)("over %s", (name, open) => {
  const sessions = (key?: string): Sessions => createClient(SessionService, open(key));

  it.each(refused)("refuses $name", async ({ call, code, message }) => {
    const seen = await refusal(call(sessions(gateway.key)));
    expect(seen.code).toBe(code);
    if (typeof message === "string") expect(seen.message).toBe(message);
    else expect(seen.message).toMatch(message);
  });

  it("leaves no trace of what it refused", async () => {
    for (const sessionId of ["new", "long", "nobody"]) {
      expect((await refusal(sessions(gateway.key).getSession({ sessionId }))).code).toBe(
        "NotFound",
      );
    }
    const { session } = await sessions(gateway.key).getSession({ sessionId: "mine" });
    expect(session).toMatchObject({ lastTurn: 1, messageCount: 2, runningTurn: 0 });
  });

  it("refuses a call without a key, and one with a wrong key", async () => {
    expect(await refusal(sessions().getSession({ sessionId: "mine" }))).toEqual({
      code: "Unauthenticated",
      message: "the call carries no API key; send `authorization: Bearer KEY`",
    });
    const wrong = { code: "Unauthenticated", message: "the API key is not valid" };
    expect(await refusal(sessions("le-wrong").getSession({ sessionId: "mine" }))).toEqual(wrong);
    expect(
      await refusal(sessions("le-wrong").generate({ sessionId: "mine", messages: [user("hi")] })),
    ).toEqual(wrong);
  });

  it("hides another tenant's session as if it did not exist", async () => {
    const theirs = sessions(otherKey);
    const missing = { code: "NotFound", message: 'there is no session "mine"' };
    expect(await refusal(theirs.getSession({ sessionId: "mine" }))).toEqual(missing);
    expect(await refusal(theirs.listMessages({ sessionId: "mine" }))).toEqual(missing);
    expect(await refusal(theirs.cancelTurn({ sessionId: "mine" }))).toEqual(missing);
    expect(
      await refusal(theirs.forkSession({ sessionId: "mine", turn: 1, newSessionId: "stolen" })),
    ).toEqual(missing);
    expect(
      await refusal(theirs.generate({ sessionId: "mine", turn: 2, messages: [user("hi")] })),
    ).toEqual(missing);
    expect((await theirs.listSessions({})).sessions).toEqual([]);
    // Deleting what does not exist is no error, and deletes nothing of anybody else.
    await theirs.deleteSession({ sessionId: "mine" });
    const { messages } = await sessions(gateway.key).listMessages({ sessionId: "mine" });
    expect(messages).toHaveLength(2);
  });

  it("refuses a turn while another one runs", async () => {
    const mine = sessions(gateway.key);
    const sessionId = `busy over ${name}`;
    const running = mine.generate({
      sessionId,
      turn: 1,
      messages: [user(longStory)],
      sampling: { temperature: 0, maxTokens: 2_000 },
      detach: true,
    });
    for await (const { event } of running) if (event.case === "delta") break;
    for (const turn of [2, 0]) {
      expect(await refusal(mine.generate({ sessionId, turn, messages: [user("hi")] }))).toEqual({
        code: "FailedPrecondition",
        message: "turn 1 is still running",
      });
    }
    expect((await mine.cancelTurn({ sessionId, turn: 1 })).cancelled).toBe(true);
    await mine.deleteSession({ sessionId });
  });

  it("refuses a message of 10 MiB", async () => {
    const title = "x".repeat(hugeBytes);
    const { code, message } = await refusal(sessions(gateway.key).createSession({ title }));
    expect(code).toBe("ResourceExhausted");
    expect(message).toMatch(
      name === "gRPC"
        ? /^request message of 104857\d\d bytes is larger than the bound of \d+$/
        : /^message size 104857\d\d is larger than configured readMaxBytes 1048576$/,
    );
  });
});

/** A POST with the development key. */
async function post(path: string, type: string, body: BodyInit): Promise<Response> {
  const streamed = body instanceof ReadableStream ? { duplex: "half" } : {};
  return fetch(gateway.url + path, {
    method: "POST",
    headers: { authorization: `Bearer ${gateway.key}`, "content-type": type },
    body,
    ...streamed,
  });
}

/** A body of unknown length: HTTP/1.1 sends it in chunks. */
function chunked(bytes: number): ReadableStream<Uint8Array> {
  const chunk = new Uint8Array(64 * 1024).fill(0x20);
  let left = bytes;
  return new ReadableStream({
    pull(controller) {
      if (left <= 0) controller.close();
      else controller.enqueue(chunk);
      left -= chunk.byteLength;
    },
  });
}

/** A message of a streaming call: no compression, length, bytes. */
function enveloped(message: Uint8Array): Uint8Array<ArrayBuffer> {
  const frame = new Uint8Array(5 + message.byteLength);
  new DataView(frame.buffer).setUint32(1, message.byteLength);
  frame.set(message, 5);
  return frame;
}

const createPath = "/leanedge.v1.SessionService/CreateSession";
const generatePath = "/leanedge.v1.SessionService/Generate";
const chatPath = "/v1/chat/completions";
const invalidUtf8 = Uint8Array.of(...Buffer.from('{"title":"a'), 0xff, ...Buffer.from('"}'));
const noProtobuf = Uint8Array.of(0xff, 0xff, 0xff);

describe("over plain HTTP, Connect's form", () => {
  interface BadBody {
    readonly name: string;
    readonly type: string;
    readonly body: () => BodyInit;
    readonly status: number;
    readonly code: string;
    readonly message: RegExp;
  }
  const bad: readonly BadBody[] = [
    {
      name: "invalid JSON",
      type: "application/json",
      body: () => '{"title":',
      status: 400,
      code: "invalid_argument",
      message: /^cannot decode message leanedge\.v1\.CreateSessionRequest from JSON: /,
    },
    {
      name: "JSON of another shape",
      type: "application/json",
      body: () => '{"title":5}',
      status: 400,
      code: "invalid_argument",
      message:
        /^cannot decode field leanedge\.v1\.CreateSessionRequest\.title from JSON: expected string, got 5$/,
    },
    {
      name: "invalid UTF-8 in JSON",
      type: "application/json",
      body: () => invalidUtf8,
      status: 400,
      code: "invalid_argument",
      message: /decode/i,
    },
    {
      name: "invalid UTF-8 in protobuf",
      type: "application/proto",
      body: () => Uint8Array.of(0x0a, 2, 0x61, 0xff),
      status: 400,
      code: "invalid_argument",
      message: /^parse binary: /,
    },
    {
      name: "invalid protobuf",
      type: "application/proto",
      body: () => noProtobuf,
      status: 400,
      code: "invalid_argument",
      message: /^parse binary: premature EOF$/,
    },
    {
      name: "a body of 10 MiB",
      type: "application/json",
      body: () => new Uint8Array(hugeBytes).fill(0x20),
      status: 429,
      code: "resource_exhausted",
      message: /^message size 10485760 is larger than configured readMaxBytes 1048576$/,
    },
    {
      name: "a body of 10 MiB in chunks",
      type: "application/json",
      body: () => chunked(hugeBytes),
      status: 429,
      code: "resource_exhausted",
      message: /^message size is larger than configured readMaxBytes 1048576$/,
    },
  ];

  it.each(bad)("refuses $name", async ({ type, body, status, code, message }) => {
    const response = await post(createPath, type, body());
    expect(response.status).toBe(status);
    const error = (await response.json()) as { code: string; message: string };
    expect(error.code).toBe(code);
    expect(error.message).toMatch(message);
  });

  it("answers 401 without a key", async () => {
    const response = await fetch(gateway.url + createPath, {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: "{}",
    });
    expect(response.status).toBe(401);
    expect(await response.json()).toMatchObject({ code: "unauthenticated" });
  });

  it.each([
    ["invalid protobuf", noProtobuf, "invalid_argument", "parse binary: premature EOF"],
    [
      "a message of 10 MiB",
      toBinary(
        CreateSessionRequestSchema,
        create(CreateSessionRequestSchema, { title: "x".repeat(hugeBytes) }),
      ),
      "resource_exhausted",
      "message size 10485765 is larger than configured readMaxBytes 1048576",
    ],
  ])("refuses %s in a streaming call", async (_name, message, code, text) => {
    const response = await post(generatePath, "application/connect+proto", enveloped(message));
    expect(response.status).toBe(200);
    const end = Buffer.from(await response.arrayBuffer()).subarray(5);
    expect(JSON.parse(end.toString("utf8"))).toEqual({ error: { code, message: text } });
  });

  it("answers native gRPC with the way to the front", async () => {
    const response = await post(generatePath, "application/grpc", enveloped(noProtobuf));
    expect(response.status).toBe(415);
    expect(response.headers.get("grpc-status")).toBe("12");
    const port = gateway.grpcAddress.split(":")[1] ?? "";
    expect(await response.text()).toContain(
      `Use the gRPC front on port ${port}, or speak gRPC-web`,
    );
  });
});

describe("over OpenAI's form", () => {
  const messages = [{ role: "user", content: "hi" }];
  interface BadChat {
    readonly name: string;
    readonly body: () => BodyInit;
    readonly status: number;
    readonly error: Readonly<Record<string, unknown>>;
  }
  const invalid = "invalid_request_error";
  const bad: readonly BadChat[] = [
    {
      name: "an unknown model",
      body: () => JSON.stringify({ model: "nobody", messages }),
      status: 404,
      error: {
        type: invalid,
        param: "model",
        code: "model_not_found",
        message: 'there is no model "nobody"',
      },
    },
    {
      name: "a temperature out of range",
      body: () => JSON.stringify({ messages, temperature: 2.5 }),
      status: 400,
      error: {
        type: invalid,
        param: "temperature",
        message: "temperature is 2.5, it must be 0 to 2",
      },
    },
    {
      name: "a prompt longer than the window",
      body: () => JSON.stringify({ messages: [{ role: "user", content: tooLong }] }),
      status: 400,
      error: {
        type: invalid,
        param: "messages",
        code: "context_length_exceeded",
        message: expect.stringMatching(windowMessage) as unknown,
      },
    },
    {
      name: "an empty message",
      body: () => JSON.stringify({ messages: [{ role: "user", content: "" }] }),
      status: 400,
      error: {
        type: invalid,
        param: "messages[0].content",
        message: "messages[0].content is empty",
      },
    },
    {
      name: "no message",
      body: () => JSON.stringify({ messages: [] }),
      status: 400,
      error: { type: invalid, param: "messages" },
    },
    {
      name: "invalid JSON",
      body: () => '{"messages":',
      status: 400,
      error: { type: invalid, code: "invalid_json", message: "the body is not valid JSON" },
    },
    {
      name: "invalid UTF-8",
      body: () => invalidUtf8,
      status: 400,
      error: { type: invalid, code: "invalid_json", message: "the body is not valid UTF-8" },
    },
    {
      name: "a body of 10 MiB",
      body: () => new Uint8Array(hugeBytes).fill(0x20),
      status: 413,
      error: { type: invalid, code: "request_too_large" },
    },
    {
      name: "a body of 10 MiB in chunks",
      body: () => chunked(hugeBytes),
      status: 413,
      error: {
        type: invalid,
        code: "request_too_large",
        message: `the body has more than ${bodyBytesMax} bytes`,
      },
    },
  ];

  it.each(bad)("refuses $name", async ({ body, status, error }) => {
    const response = await post(chatPath, "application/json", body());
    expect(response.status).toBe(status);
    expect(await response.json()).toMatchObject({ error });
  });

  it.each([undefined, "le-wrong"])("refuses the key %s", async (key) => {
    const response = await fetch(gateway.url + chatPath, {
      method: "POST",
      headers: key === undefined ? {} : { authorization: `Bearer ${key}` },
      body: JSON.stringify({ messages }),
    });
    expect(response.status).toBe(401);
    expect(await response.json()).toMatchObject({
      error: { type: invalid, code: "invalid_api_key" },
    });
  });

  it("never goes on with another tenant's session of the same id", async () => {
    const response = await fetch(gateway.url + chatPath, {
      method: "POST",
      headers: { authorization: `Bearer ${otherKey}`, "x-session-id": "mine" },
      body: JSON.stringify({
        messages: [{ role: "user", content: question }],
        temperature: 0,
        max_tokens: 4,
      }),
    });
    expect(response.status).toBe(200);
    expect(response.headers.get("x-affinity")).toBe("miss");
    expect(await response.json()).toMatchObject({
      usage: { prompt_tokens_details: { cached_tokens: 0 } },
    });
    // It made a session of their own, and left ours alone.
    const mine = createLeanedgeClient({ baseUrl: gateway.url, key: gateway.key });
    expect((await mine.sessions.getSession({ sessionId: "mine" })).session?.lastTurn).toBe(1);
  });
});

describe("the engine", () => {
  it("has nothing left to do after all that, within its memory", async () => {
    const status = await statusWhen(gateway, isIdle, idleMsMax);
    expect(status.memory_bytes_max).toBe(88 * 1024 * 1024);
    expect(status.memory_bytes).toBeLessThanOrEqual(status.memory_bytes_max);
  });
});
