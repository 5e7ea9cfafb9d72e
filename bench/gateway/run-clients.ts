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
type Ask = {
  load: Load;
  session: string;
  turn: number;
  history: readonly Said[];
  /** When it begins, by the machine's clock. */
  beginUs: number;
};

/** A conversation and its turns so far. */
type Session = { id: string; history: Said[]; turns: number };

/** A turn as its client saw it. */
type Seen = { text: string; firstTokenMs: number; tokenLagMs: number[]; hit: boolean };

/** The server said why it gives no answer, or not the whole. */
class FailedTurn extends Error {}

const agent = new Agent({ keepAlive: true, maxSockets: Infinity, noDelay: true });

/** Takes the texts of an answer as they arrive. */
class Answer {
  readonly #beginUs: number;
  #text = "";
  readonly #seen: Seen = { text: "", firstTokenMs: NaN, tokenLagMs: [], hit: true };

  /** @param beginUs from when on its first text is waited for */
  constructor(beginUs: number) {
    this.#beginUs = beginUs;
  }

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

/**
 * Sends a request, and resolves with the head of its answer. A server may close a connection that was idle just when it is used
 * again: the request goes out once more then, as those of browsers do.
 */
function post(
  url: string,
  headers: Record<string, string>,
  body: string | Uint8Array,
  again = false,
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
    request.once("error", (error: NodeJS.ErrnoException) => {
      const closed = request.reusedSocket && error.code === "ECONNRESET";
      if (closed && !again) resolve(post(url, headers, body, true));
      else reject(error);
    });
    request.once("timeout", () => request.destroy(new Error(`${url} was silent for a minute`)));
    request.end(bytes);
  });
}

async function textOf(response: IncomingMessage): Promise<string> {
  let text = "";
  for await (const chunk of response.setEncoding("utf8")) text += String(chunk);
  return text;
}

async function openAiTurn({ load, session, turn, history, beginUs }: Ask): Promise<Seen> {
  const answer = new Answer(beginUs);
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

async function connectTurn({ load, session, turn, history, beginUs }: Ask): Promise<Seen> {
  const answer = new Answer(beginUs);
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
  const run = new LoadRun(load);
  await (load.arrivalsPerSecond > 0
    ? run.arrivals()
    : Promise.all(Array.from({ length: load.streams }, (_, number) => run.client(number))));
  return run.result();
}

/** A load under way. */
class LoadRun {
  readonly #load: Load;
  readonly #turn: (ask: Ask) => Promise<Seen>;
  readonly #beginMs = performance.now();
  #endedMs = this.#beginMs;
  #failure: FailedTurn | undefined;
  #later = 0;
  #hits = 0;
  readonly #result: LoadResult = {
    ...{ turns: 0, openings: 0, failed: 0, turnsPerSecond: 0, affinity: 1 },
    ...{ firstTokenMs: [], tokenLagMs: [] },
  };

  constructor(load: Load) {
    this.#load = load;
    this.#turn = load.target.form === "openai" ? openAiTurn : connectTurn;
  }

  /** One client, which begins a turn when its last one has ended. */
  async client(number: number): Promise<void> {
    for (let count = 0; ; count++) {
      const session = this.#session(`${number}-${count}`);
      while (session.turns < this.#load.turns) {
        if (this.#isOver()) return;
        if (!(await this.#take(session, machineClockUs()))) break;
      }
    }
  }

  /** Turns that begin when they are due. */
  async arrivals(): Promise<void> {
    const { arrivalsPerSecond, turns } = this.#load;
    const idle: Session[] = [];
    const running: Promise<void>[] = [];
    const beginUs = machineClockUs();
    for (let count = 0; !this.#isOver(); count++) {
      const dueUs = beginUs + (count * 1_000_000) / arrivalsPerSecond;
      const waitMs = (dueUs - machineClockUs()) / 1000;
      if (waitMs > 0) await new Promise((resolve) => setTimeout(resolve, waitMs));
      const session = idle.shift() ?? this.#session(String(count));
      const turn = this.#take(session, dueUs).then((ended) => {
        if (ended && session.turns < turns) idle.push(session);
      });
      // It is heard of at the end, with all others.
      turn.catch(() => undefined);
      running.push(turn);
    }
    await Promise.all(running);
  }

  /** What came of it. Throws where nothing did. */
  result(): LoadResult {
    const result = this.#result;
    if (result.turns === 0 && this.#failure !== undefined) throw this.#failure;
    const ms = Math.max(this.#load.ms, this.#endedMs - this.#beginMs);
    result.turnsPerSecond = (1000 * result.turns) / ms;
    if (this.#later > 0) result.affinity = this.#hits / this.#later;
    return result;
  }

  #session(name: string): Session {
    return { id: `${this.#load.label}-${name}`, history: [], turns: 0 };
  }

  #isOver(): boolean {
    const ms = performance.now() - this.#beginMs;
    const { turnsMin } = this.#load;
    return ms >= loadMsMax || (ms >= this.#load.ms && this.#result.turns >= turnsMin);
  }

  /** A session's next turn; false where it failed. */
  async #take(session: Session, beginUs: number): Promise<boolean> {
    const { history } = session;
    const turn = ++session.turns;
    history.push({ role: "user", content: `${turn}. ${userText}` });
    const ask = { load: this.#load, session: session.id, turn, history, beginUs };
    const seen = await this.#turn(ask).catch((error: unknown) => {
      if (error instanceof FailedTurn) return error;
      throw error;
    });
    const result = this.#result;
    if (seen instanceof FailedTurn) {
      result.failed++;
      this.#failure = seen;
      return false;
    }
    history.push({ role: "assistant", content: seen.text });
    result.turns++;
    this.#endedMs = performance.now();
    result.firstTokenMs.push(seen.firstTokenMs);
    for (const lag of seen.tokenLagMs) result.tokenLagMs.push(lag);
    if (turn === 1) {
      result.openings++;
    } else {
      this.#later++;
      if (seen.hit) this.#hits++;
    }
    return true;
  }
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
