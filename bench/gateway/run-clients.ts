/** The clients, in a process of their own: each holds one session after the other, and reads its answers to their ends. */
import { Agent, request as httpRequest, type IncomingMessage } from "node:http";
import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import {
  GenerateRequestSchema,
  GenerateResponseSchema,
  Role,
} from "../../src/gen/leanedge/v1/session_pb.js";
import { isProgram } from "../support/child.js";
import { takeTurns, type Turns } from "../support/turns.js";
import { loadMsMax, machineClockUs, tokenChars } from "./workload.js";
import type { Load, LoadResult } from "./workload.js";

/** One turn may take this long before the run counts as failed. */
const turnMsMax = 60_000;
/** What a user says in each turn, besides its number. */
const userText =
  "The harbour master wrote down every ship that came in with the tide, its flag, its cargo and its captain.";
const flagEnd = 0x02;
const headBytes = 5;

type Said = { role: "user" | "assistant"; content: string };

/** A turn to run. */
type Ask = { load: Load; session: string; turn: number; history: readonly Said[] };

/** A turn as its client saw it. */
type Seen = { text: string; firstTokenMs: number; tokenLagMs: number[]; hit: boolean };

/** The server said why it gives no answer, or not the whole. */
class FailedTurn extends Error {}

const agent = new Agent({ keepAlive: true, maxSockets: Infinity, noDelay: true });

/** Takes the texts of an answer as they arrive. */
class Answer {
  readonly #beginUs = machineClockUs();
  #text = "";
  readonly #seen: Seen = { text: "", firstTokenMs: NaN, tokenLagMs: [], hit: true };

  /** @param arrivedUs when the bytes came, before they were read */
  take(text: string, arrivedUs: number): void {
    if (text === "") return;
    const from = Math.floor(this.#text.length / tokenChars);
    if (this.#text === "") this.#seen.firstTokenMs = (arrivedUs - this.#beginUs) / 1000;
    this.#text += text;
    for (let token = from; (token + 1) * tokenChars <= this.#text.length; token++) {
      const sentUs = parseInt(this.#text.slice(token * tokenChars, (token + 1) * tokenChars), 36);
      if (token > 0) this.#seen.tokenLagMs.push((arrivedUs - sentUs) / 1000);
    }
  }

  /** The session was where its cache is. */
  set hit(hit: boolean) {
    this.#seen.hit = hit;
  }

  /** The whole. Throws unless it has as many tokens as were asked for, in the order in which they were sent. */
  end({ tokens }: Load): Seen {
    const stamps = this.#text.match(/.{11}/g) ?? [];
    const ordered = stamps.every((stamp, i) => i === 0 || stamp >= (stamps[i - 1] ?? ""));
    if (this.#text.length !== tokens * tokenChars || !ordered) {
      throw new Error(`an answer of ${tokens} tokens reads "${this.#text}"`);
    }
    return { ...this.#seen, text: this.#text };
  }
}

/** Sends a request, and resolves with the head of its answer. */
function post(
  url: string,
  headers: Record<string, string>,
  body: string | Uint8Array,
): Promise<IncomingMessage> {
  return new Promise((resolve, reject) => {
    const bytes = typeof body === "string" ? Buffer.from(body) : body;
    const request = httpRequest(
      url,
      {
        method: "POST",
        agent,
        timeout: turnMsMax,
        headers: { ...headers, "content-length": String(bytes.byteLength) },
      },
      resolve,
    );
    request.once("error", reject);
    request.once("timeout", () => request.destroy(new Error(`${url} was silent for a minute`)));
    request.end(bytes);
  });
}

async function textOf(response: IncomingMessage): Promise<string> {
  let text = "";
  for await (const chunk of response.setEncoding("utf8")) text += String(chunk);
  return text;
}

async function openAiTurn({ load, session, turn, history }: Ask): Promise<Seen> {
  const answer = new Answer();
  const response = await post(
    `${load.target.url}/v1/chat/completions`,
    { ...load.target.headers, "content-type": "application/json", "x-session-id": session },
    JSON.stringify({
      ...{ model: load.model, stream: true, max_tokens: load.tokens, temperature: 0 },
      messages: history,
    }),
  );
  if (response.statusCode !== 200) {
    throw new FailedTurn(`the chat answers ${response.statusCode ?? 0}: ${await textOf(response)}`);
  }
  const affinity = response.headers["x-affinity"];
  answer.hit = turn === 1 || affinity === undefined || affinity === "hit";
  let rest = "";
  let done = false;
  for await (const chunk of response.setEncoding("utf8")) {
    const arrivedUs = machineClockUs();
    const events = (rest + String(chunk)).split("\n\n");
    rest = events.pop() ?? "";
    for (const event of events) {
      if (event === "data: [DONE]") done = true;
      else if (event.startsWith("data: ")) answer.take(contentOf(event.slice(6)), arrivedUs);
    }
  }
  if (!done) throw new Error(`a chat ended without [DONE]: ${rest}`);
  return answer.end(load);
}

function contentOf(json: string): string {
  const chunk = JSON.parse(json) as {
    choices?: { delta?: { content?: string } }[];
    error?: { message: string };
  };
  if (chunk.error !== undefined) throw new FailedTurn(`the chat failed: ${chunk.error.message}`);
  return chunk.choices?.[0]?.delta?.content ?? "";
}

async function connectTurn({ load, session, turn, history }: Ask): Promise<Seen> {
  const answer = new Answer();
  const message = toBinary(
    GenerateRequestSchema,
    create(GenerateRequestSchema, {
      ...{ sessionId: session, turn, model: load.model },
      messages: [{ role: Role.USER, text: history.at(-1)?.content ?? "" }],
      sampling: { maxTokens: load.tokens, temperature: 0 },
    }),
  );
  const body = Buffer.alloc(headBytes + message.byteLength);
  body.writeUInt32BE(message.byteLength, 1);
  body.set(message, headBytes);
  const response = await post(
    `${load.target.url}/leanedge.v1.SessionService/Generate`,
    {
      ...load.target.headers,
      ...{ "content-type": "application/connect+proto", "connect-protocol-version": "1" },
    },
    body,
  );
  if (response.statusCode !== 200) {
    throw new FailedTurn(`Generate answers ${response.statusCode ?? 0}: ${await textOf(response)}`);
  }
  let rest = Buffer.alloc(0);
  let ended = false;
  for await (const chunk of response) {
    const arrivedUs = machineClockUs();
    rest = Buffer.concat([rest, chunk as Buffer]);
    while (rest.length >= headBytes && rest.length >= headBytes + rest.readUInt32BE(1)) {
      const payload = rest.subarray(headBytes, headBytes + rest.readUInt32BE(1));
      if (((rest[0] ?? 0) & flagEnd) !== 0) {
        const end = JSON.parse(payload.toString()) as { error?: { message?: string } };
        if (end.error !== undefined) throw new FailedTurn(`Generate failed: ${payload.toString()}`);
        ended = true;
      } else {
        const { event } = fromBinary(GenerateResponseSchema, payload);
        if (event.case === "delta") answer.take(event.value.text, arrivedUs);
        if (event.case === "started" && event.value.worker !== "") {
          answer.hit = turn === 1 || event.value.cachedTokens > 0;
        }
      }
      rest = rest.subarray(headBytes + payload.length);
    }
  }
  if (!ended) throw new Error("Generate ended without its end");
  return answer.end(load);
}

/** Runs a load. */
export async function runLoad(load: Load): Promise<LoadResult> {
  const run = load.target.form === "openai" ? openAiTurn : connectTurn;
  const beginMs = performance.now();
  let endedMs = beginMs;
  const over = (): boolean => {
    const ms = performance.now() - beginMs;
    return ms >= loadMsMax || (ms >= load.ms && result.turns >= load.turnsMin);
  };
  const result: LoadResult = {
    ...{ turns: 0, failed: 0, turnsPerSecond: 0, firstTokenMs: [], tokenLagMs: [], affinity: 1 },
  };
  let failure: FailedTurn | undefined;
  let later = 0;
  let hits = 0;
  async function client(number: number): Promise<void> {
    for (let count = 0; ; count++) {
      const session = `${load.label}-${number}-${count}`;
      const history: Said[] = [];
      for (let turn = 1; turn <= load.turns; turn++) {
        if (over()) return;
        history.push({ role: "user", content: `${turn}. ${userText}` });
        const seen = await run({ load, session, turn, history }).catch((error: unknown) => {
          if (error instanceof FailedTurn) return error;
          throw error;
        });
        if (seen instanceof FailedTurn) {
          result.failed++;
          failure = seen;
          break;
        }
        history.push({ role: "assistant", content: seen.text });
        result.turns++;
        endedMs = performance.now();
        result.firstTokenMs.push(seen.firstTokenMs);
        for (const lag of seen.tokenLagMs) result.tokenLagMs.push(lag);
        if (turn > 1) {
          later++;
          if (seen.hit) hits++;
        }
      }
    }
  }
  await Promise.all(Array.from({ length: load.streams }, (_, number) => client(number)));
  if (result.turns === 0 && failure !== undefined) throw failure;
  result.turnsPerSecond = (1000 * result.turns) / Math.max(load.ms, endedMs - beginMs);
  if (later > 0) result.affinity = hits / later;
  return result;
}

function open(): Promise<Turns<LoadResult>> {
  return Promise.resolve({
    turn: (what) => runLoad(JSON.parse(what) as Load),
    close: () => {
      agent.destroy();
      return Promise.resolve();
    },
  });
}

if (isProgram(import.meta.url)) takeTurns(open);
