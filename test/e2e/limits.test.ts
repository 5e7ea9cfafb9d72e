/**
 * The two limits a minute of a key, with real processes: whoever answers a turn (the session's model or its fallback) and
 * however it is read (a stream or one piece, Connect or OpenAI's form), it counts what was computed, and the limit fires.
 */
import { Code, ConnectError, createClient } from "@connectrpc/connect";
import { createConnectTransport, createGrpcWebTransport } from "@connectrpc/connect-node";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { bearerToken } from "../../src/client/bearer-token.js";
import { KeyService, type KeyLimits } from "../../src/gen/leanedge/admin/v1/key_pb.js";
import { Role, SessionService, type Usage } from "../../src/gen/leanedge/v1/session_pb.js";
import { poolTokenVars } from "../support/pool-workers.js";
import {
  poolModel,
  poolVars,
  startWorkerdPool,
  type WorkerdPool,
} from "../support/workerd-pool.js";

/** A model that no worker serves: its fallback answers, where a request allows it. */
const absentModel = "absent";
/** More tokens than its bytes let expect, so that the estimate alone is told from what was computed. */
const question = "0123456789 ".repeat(40);
const answerTokens = 200;
/** One token flows back in a second. */
const tokensPerMinute = 60;
/** Until the end of a turn has reached its key's object, on a busy machine. */
const settleMsMax = 30_000;

/** Tokens of a turn that count: what was computed for it. */
type Spent = number;

/** A turn that a key asks for in some form; a refusal is thrown. */
interface Form {
  readonly name: string;
  readonly ask: (key: string, model: string, text: string, maxTokens: number) => Promise<Spent>;
}

/** A refusal, in either form. */
class Refused extends Error {
  readonly retryAfterSeconds: number;

  constructor(message: string, retryAfterSeconds: number) {
    super(message);
    this.retryAfterSeconds = retryAfterSeconds;
  }
}

let pool: WorkerdPool;

beforeAll(async () => {
  const fallback = { model: poolModel, unasked: false };
  pool = await startWorkerdPool({
    names: ["one"],
    vars: {
      ...poolVars,
      LEANEDGE_MODELS: JSON.stringify([
        { model: poolModel, engines: 0 },
        { model: absentModel, engines: 0, fallback },
      ]),
    },
  });
});

afterAll(() => pool.close());

let made = 0;

/** A new key with limits of its own. */
async function newKey(limits: Partial<Omit<KeyLimits, "$typeName">>): Promise<string> {
  const service = createClient(
    KeyService,
    createConnectTransport({
      baseUrl: pool.gateway.url,
      httpVersion: "1.1",
      interceptors: bearerToken(poolTokenVars.LEANEDGE_ADMIN_TOKEN),
    }),
  );
  const { key } = await service.createKey({ tenant: "acme", name: `key-${++made}`, limits });
  return key;
}

function newSession(): string {
  return `session ${++made}`;
}

function rpc(name: string, create: typeof createConnectTransport): Form {
  return {
    name,
    async ask(key, model, text, maxTokens) {
      const sessions = createClient(
        SessionService,
        create({
          baseUrl: pool.gateway.url,
          httpVersion: "1.1",
          interceptors: bearerToken(key),
        }),
      );
      let usage: Usage | undefined;
      try {
        for await (const { event } of sessions.generate({
          sessionId: newSession(),
          turn: 1,
          model,
          messages: [{ role: Role.USER, text }],
          sampling: { temperature: 0, maxTokens },
          allowFallback: true,
        })) {
          if (event.case === "finished") usage = event.value.usage;
        }
      } catch (error) {
        if (!(error instanceof ConnectError) || error.code !== Code.ResourceExhausted) throw error;
        throw new Refused(error.rawMessage, Number(error.metadata.get("retry-after")));
      }
      if (usage === undefined) throw new Error("the answer has no end");
      return usage.promptTokens - usage.cachedTokens + usage.completionTokens;
    },
  };
}

interface OpenAiUsage {
  readonly prompt_tokens: number;
  readonly completion_tokens: number;
  readonly prompt_tokens_details: { readonly cached_tokens: number };
}

function openAi(name: string, stream: boolean): Form {
  return {
    name,
    async ask(key, model, text, maxTokens) {
      const response = await fetch(`${pool.gateway.url}/v1/chat/completions`, {
        method: "POST",
        headers: {
          authorization: `Bearer ${key}`,
          "content-type": "application/json",
          "x-session-id": newSession(),
        },
        body: JSON.stringify({
          model,
          messages: [{ role: "user", content: text }],
          temperature: 0,
          max_tokens: maxTokens,
          allow_fallback: true,
          stream,
          ...(stream ? { stream_options: { include_usage: true } } : {}),
        }),
      });
      const body = await response.text();
      if (response.status === 429) {
        const { error } = JSON.parse(body) as { error: { message: string } };
        throw new Refused(error.message, Number(response.headers.get("retry-after")));
      }
      expect([response.status, body]).toEqual([200, body]);
      const chunks = stream
        ? body.split("\n\n").filter((line) => line.startsWith("data: {"))
        : [`data: ${body}`];
      const last = JSON.parse(chunks.at(-1)?.slice("data: ".length) ?? "") as {
        usage: OpenAiUsage;
      };
      const { prompt_tokens, completion_tokens, prompt_tokens_details } = last.usage;
      return prompt_tokens - prompt_tokens_details.cached_tokens + completion_tokens;
    },
  };
}

const forms: readonly Form[] = [
  rpc("Connect", createConnectTransport),
  rpc("gRPC-web", createGrpcWebTransport),
  openAi("OpenAI server-sent events", true),
  openAi("OpenAI in one piece", false),
];

/** Every form, answered by the session's own model and by its fallback. */
const cases = forms.flatMap((form) =>
  [poolModel, absentModel].map((model) => ({ name: `${form.name}, ${model}`, form, model })),
);

/** The refusal of a turn that a key may not begin; undefined if it was answered. */
async function refusal({ ask }: Form, key: string, model: string): Promise<Refused | undefined> {
  try {
    await ask(key, model, "hi", 1);
    return undefined;
  } catch (error) {
    if (error instanceof Refused) return error;
    throw error;
  }
}

describe("tokens a minute", () => {
  it.each(cases)("count what was computed, and are refused beyond: $name", async (one) => {
    const key = await newKey({ tokensPerMinute });
    const beganMs = performance.now();
    const spent = await one.form.ask(key, one.model, question, answerTokens);
    // A short question of one more token is counted as two.
    const asked = 2;
    expect(spent).toBeGreaterThan(answerTokens + Math.ceil(question.length / 4) + 20);
    // Whoever asks next is refused, in every form, with what the turn took as it is by then.
    for (const { form, model } of [one, ...cases.filter((other) => other !== one)]) {
      await expect
        .poll(
          async () => {
            const refused = await refusal(form, key, model);
            if (refused === undefined) return "answered";
            const [, value] =
              /tokens_per_minute is 60, and this would make it (\d+); come again/.exec(
                refused.message,
              ) ?? [];
            const flownBack = (performance.now() - beganMs) / 1_000 + 1;
            const used = Number(value) - asked;
            return {
              counted: used <= spent && used >= spent - flownBack,
              waits: refused.retryAfterSeconds >= used - tokensPerMinute - flownBack,
            };
          },
          { timeout: settleMsMax },
        )
        .toEqual({ counted: true, waits: true });
    }
  });
});

describe("requests a minute", () => {
  it.each(cases)("are refused beyond the limit, in every form: $name", async ({ form, model }) => {
    const key = await newKey({ requestsPerMinute: 1 });
    expect(await refusal(form, key, model)).toBeUndefined();
    for (const other of cases) {
      const refused = await refusal(other.form, key, other.model);
      expect(refused?.message).toMatch(/requests_per_minute is 1, and this would make it 2/);
      expect(refused?.retryAfterSeconds).toBeGreaterThan(0);
    }
  });
});
