/**
 * What a conversation leaves in logs and metrics of a gateway and its workers: every line in one form, each request to be
 * found by its id from the answer to the engine's steps, and nowhere a word of what was said, or a key.
 */
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { startWorkerdPool, type WorkerdPool } from "../support/workerd-pool.js";
import { poolTokenVars } from "../support/pool-workers.js";

/** Words that nobody else says. */
const asked = "Zanzibarquartz";
const titled = "Wolframpetunia";
const instructed = "Obsidianmarmalade";
/** Until a line has gone through a pipe, on a busy machine. */
const lineMsMax = 30_000;

type Line = Readonly<Record<string, unknown>>;

let pool: WorkerdPool;

beforeAll(async () => {
  pool = await startWorkerdPool({ names: ["one", "two"] });
});

afterAll(() => pool.close());

/** All whole lines that gateway and workers printed; the rest of a last one may be on its way. */
function output(): string {
  const outputs = [pool.gateway, ...pool.workers.values()].map((printing) => printing.output());
  return outputs.map((text) => text.slice(0, text.lastIndexOf("\n") + 1)).join("");
}

/** Lines of the log that have been written. */
function lines(): Line[] {
  return output()
    .split("\n")
    .filter((line) => line.startsWith("{"))
    .map((line) => JSON.parse(line) as Line);
}

/** The one line of an event and a request, once it is there. */
async function lineOf(event: string, requestId: string): Promise<Line> {
  const find = (): Line[] =>
    lines().filter((line) => line["event"] === event && line["request_id"] === requestId);
  await expect.poll(() => find().length, { timeout: lineMsMax }).toBe(1);
  const [line] = find();
  if (line === undefined) throw new Error(`no line of ${event}`);
  return line;
}

/** A request in OpenAI form, with its request id. */
function complete(
  requestId: string,
  body: Readonly<Record<string, unknown>>,
  key = pool.gateway.key,
): Promise<Response> {
  return fetch(`${pool.gateway.url}/v1/chat/completions`, {
    method: "POST",
    headers: {
      authorization: `Bearer ${key}`,
      "content-type": "application/json",
      "x-request-id": requestId,
    },
    body: JSON.stringify(body),
  });
}

const messages = [
  { role: "system", content: `Always mention ${instructed}.` },
  { role: "user", content: `What do you know of ${asked}?` },
];

describe("a request", () => {
  it("is found by its id in the answer, the gateway's log and the worker's, down to the engine's steps", async () => {
    const answer = await complete("find-me-1", { messages, max_tokens: 8, temperature: 0 });
    expect(answer.status).toBe(200);
    expect(answer.headers.get("x-request-id")).toBe("find-me-1");
    const { usage } = (await answer.json()) as { usage: { completion_tokens: number } };
    const [, worker] = (answer.headers.get("x-served-by") ?? "").split("wasm:");
    const turn = await lineOf("turn.ended", "find-me-1");
    expect(turn).toMatchObject({
      level: "info",
      part: "gateway",
      outcome: "length",
      completion_tokens: usage.completion_tokens,
    });
    expect(turn["attempts"]).toBeGreaterThanOrEqual(1);
    const call = await lineOf("call.ended", "find-me-1");
    expect(call).toMatchObject({ part: "worker", outcome: "length" });
    expect([worker, turn["worker"]]).toContain(call["worker"]);
    const { first_step: first, last_step: last } = call;
    expect(Number(last) - Number(first)).toBeGreaterThanOrEqual(usage.completion_tokens - 1);
  });

  it("gets an id where it brings none, or one that cannot be one", async () => {
    const named = await complete("not an id", { messages, max_tokens: 4 });
    await named.text();
    const id = named.headers.get("x-request-id") ?? "";
    expect(id).toMatch(/^[0-9a-f-]{36}$/);
    await lineOf("turn.ended", id);
  });
});

describe("what is written", () => {
  it("has one form, and holds no word of a conversation and no key", async () => {
    const streamed = await complete("streamed", {
      messages: [...messages, { role: "assistant", content: titled }, messages[1]],
      max_tokens: 6,
      stream: true,
    });
    const said = [...(await streamed.text()).matchAll(/"content":"([^"]{6,})"/g)].map(
      ([, text]) => text ?? "",
    );
    await lineOf("turn.ended", "streamed");
    // What fails is logged, too.
    const wrong = await complete("refused", { messages, max_tokens: -1 });
    expect(wrong.status).toBe(400);
    const stranger = await complete("stranger", { messages }, "le-a-key-that-opens-nothing");
    expect(stranger.status).toBe(401);
    const long = "word ".repeat(40_000);
    const full = await complete("too-long", {
      messages: [{ role: "user", content: `${asked} ${long}` }],
    });
    expect(full.status).toBe(400);
    await full.text();
    await lineOf("turn.refused", "too-long");

    const written = lines();
    expect(written.length).toBeGreaterThan(5);
    for (const line of written) {
      expect(line).toMatchObject({
        time: expect.stringMatching(/^\d{4}-\d\d-\d\dT/) as string,
        level: expect.stringMatching(/^(debug|info|warn|error)$/) as string,
        part: expect.stringMatching(/^(gateway|worker)$/) as string,
        event: expect.stringMatching(/^[a-z]+\.[a-z_]+$/) as string,
      });
    }
    const all = output();
    const secrets = [
      ...[asked, titled, instructed, "le-a-key-that-opens-nothing", pool.gateway.key],
      ...Object.values(poolTokenVars),
      ...said.filter((text) => text.trim().includes(" ")),
    ];
    for (const secret of secrets) expect(all.includes(secret), secret).toBe(false);
  });

  it("adds up in the metrics of the gateway, without words or keys in them", async () => {
    const scrape = async (): Promise<string> => {
      const answer = await fetch(`${pool.gateway.url}/metrics`, {
        headers: { authorization: `Bearer ${poolTokenVars.LEANEDGE_ADMIN_TOKEN}` },
      });
      return answer.text();
    };
    const value = (text: string, series: string): number => {
      const start = `leanedge:gateway_${series} `;
      const line = text.split("\n").find((sample) => sample.startsWith(start));
      return Number(line?.slice(start.length) ?? 0);
    };
    const ended = lines().filter((line) => line["event"] === "turn.ended");
    const sum = (field: string): number =>
      ended.reduce((total, line) => total + Number(line[field]), 0);
    const expected = {
      'answers_total{protocol="openai",outcome="length"}': ended.length,
      'time_to_first_token_seconds_count{protocol="openai"}': ended.length,
      'tokens_total{kind="prompt"}': sum("prompt_tokens"),
      'tokens_total{kind="completion"}': sum("completion_tokens"),
      attempts_total: sum("attempts"),
      'refusals_total{reason="context_length_exceeded"}': 1,
      'refusals_total{reason="unauthenticated"}': 1,
    };
    let text = "";
    // All in one: what is counted leaves an isolate in several parts.
    await expect
      .poll(
        async () => {
          text = await scrape();
          return Object.fromEntries(
            Object.keys(expected).map((series) => [series, value(text, series)]),
          );
        },
        { timeout: lineMsMax },
      )
      .toEqual(expected);
    expect(text).toContain("leanedge:pool_workers");
    for (const word of [asked, instructed, titled, pool.gateway.key]) {
      expect(text.includes(word), word).toBe(false);
    }
  });
});
