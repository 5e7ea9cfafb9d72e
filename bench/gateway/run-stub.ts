/**
 * A worker without a model, in a process of its own: WorkerService as `leanedge worker` serves it (the same HTTP server,
 * prefixes checked, nothing computed), and the same answers in OpenAI's form on a second port.
 */
import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { create, type MessageInitShape } from "@bufbuild/protobuf";
import type { ServiceImpl } from "@connectrpc/connect";
import { Backend, FinishReason, type Message } from "../../src/gen/leanedge/v1/session_pb.js";
import {
  FingerprintsSchema,
  GenerateResponseSchema,
  GetStatusResponseSchema,
  SegmentKind,
  type GenerateRequest,
  type GenerateResponse,
  type PrefixName,
  type WorkerService,
} from "../../src/gen/leanedge/worker/v1/worker_pb.js";
import { namePrefix, packIds, samePrefix } from "../../src/gateway/worker-client/segments.js";
import type { PackedSegment } from "../../src/gateway/worker-client/segments.js";
import { startHttpServer } from "../../src/worker/process/http-server.js";
import { EventMailbox } from "../../src/worker/event-mailbox.js";
import { writeTogether } from "../../src/worker/process/write-together.js";
import { isProgram } from "../support/child.js";
import { takeTurns, type Turns } from "../support/turns.js";
import {
  firstTokenMs,
  instantModel,
  machineClockUs,
  pacedModel,
  tokenChars,
  tokenMs,
} from "./workload.js";
import type { StubAddresses } from "./workload.js";

const workerName = "stub";
const contextTokensMax = 1 << 20;
const tokensDefault = 16;
const charsPerId = 4;
/** Logs that it keeps; the oldest go first. */
const sequencesMax = 20_000;
/** Longest wait for a token; what ends a turn comes long before. */
const tokenMsMax = 60_000;
/** Largest body in OpenAI's form. */
const bodyBytesMax = 1 << 20;
const fingerprints = create(FingerprintsSchema, { model: "m", template: "t", plan: "p" });

/** Texts of an answer's tokens, when they are due. */
async function* answer(model: string, tokens: number): AsyncGenerator<string, void, undefined> {
  const beginMs = performance.now();
  for (let index = 0; index < tokens; index++) {
    if (model === pacedModel) {
      const waitMs = beginMs + firstTokenMs + index * tokenMs - performance.now();
      if (waitMs > 0) await new Promise((resolve) => setTimeout(resolve, waitMs));
    }
    yield ` ${machineClockUs()
      .toString(36)
      .padStart(tokenChars - 1, "0")}`;
  }
}

/** An answer's texts as events tell them: those together that the interval holds, as a worker does. */
async function* pieces(
  texts: AsyncIterable<string>,
  intervalMs: number,
): AsyncGenerator<readonly string[], void, undefined> {
  if (intervalMs === 0) {
    for await (const text of texts) yield [text];
    return;
  }
  const mailbox = new EventMailbox(intervalMs);
  const waiting = { texts: Array<string>(), ended: false };
  const drawing = (async (): Promise<void> => {
    for await (const text of texts) {
      waiting.texts.push(text);
      mailbox.wake();
    }
    waiting.ended = true;
    mailbox.end();
  })();
  while (!waiting.ended || waiting.texts.length > 0) {
    await mailbox.wait(tokenMsMax);
    const piece = waiting.texts.splice(0);
    if (piece.length > 0) yield piece;
  }
  await drawing;
}

/** Logs of sequences, as a worker holds them. */
class Logs {
  readonly #logs = new Map<string, PackedSegment[]>();

  /** What it holds of a sequence. */
  have(sequence: string): PrefixName {
    return namePrefix(this.#logs.get(sequence) ?? [], fingerprints);
  }

  /** The segments of a prefix, or undefined where it holds another log. */
  prefix(sequence: string, name: PrefixName | undefined): PackedSegment[] | undefined {
    if (name === undefined || name.tokens === 0) return [];
    const held = (this.#logs.get(sequence) ?? []).slice(0, name.segmentTokens.length);
    return samePrefix(name, namePrefix(held, undefined)) ? held : undefined;
  }

  /** Replaces a log. */
  set(sequence: string, log: PackedSegment[]): void {
    this.#logs.delete(sequence);
    this.#logs.set(sequence, log);
    if (this.#logs.size <= sequencesMax) return;
    for (const oldest of this.#logs.keys()) {
      this.#logs.delete(oldest);
      break;
    }
  }

  /** Forgets a log. */
  delete(sequence: string): boolean {
    return this.#logs.delete(sequence);
  }

  /** Logs that it holds. */
  get count(): number {
    return this.#logs.size;
  }
}

function promptIds(messages: readonly Message[]): number[] {
  const chars = messages.reduce((sum, { text }) => sum + text.length, 0);
  return Array.from({ length: Math.ceil(chars / charsPerId) }, (_, index) => index);
}

async function* generate(
  logs: Logs,
  request: GenerateRequest,
): AsyncGenerator<GenerateResponse, void, undefined> {
  const { sequenceId } = request;
  const held = logs.prefix(sequenceId, request.prefix);
  if (held === undefined) {
    yield event({ case: "prefixMissing", value: { have: logs.have(sequenceId) } });
    return;
  }
  const sent = request.log.map((segment): PackedSegment => {
    const kind =
      segment.kind === SegmentKind.GENERATED ? SegmentKind.GENERATED : SegmentKind.PROMPT;
    return { kind, ids: packIds(segment.ids) };
  });
  const ids = promptIds(request.messages);
  const cachedTokens = held.reduce((sum, segment) => sum + segment.ids.byteLength / 4, 0);
  const log = [...held, ...sent, { kind: SegmentKind.PROMPT, ids: packIds(ids) } as const];
  const promptTokens = log.reduce((sum, segment) => sum + segment.ids.byteLength / 4, 0);
  yield event({
    case: "accepted",
    value: {
      ...{ promptIds: ids, promptTokens, cachedTokens, backend: Backend.REFERENCE },
      ...{ worker: workerName, fingerprints, queued: 0 },
    },
  });
  const drawn: number[] = [];
  let offset = 0;
  const texts = answer(request.model, request.sampling?.maxTokens ?? tokensDefault);
  for await (const piece of pieces(texts, request.textIntervalMs)) {
    const text = piece.join("");
    const ids = piece.map((_, index) => drawn.length + index);
    yield event({ case: "tokens", value: { ids, text, offset: BigInt(offset) } });
    drawn.push(...ids);
    offset += text.length;
  }
  log.push({ kind: SegmentKind.GENERATED, ids: packIds(drawn) });
  logs.set(sequenceId, log);
  yield event({
    case: "finished",
    value: {
      ...{ finishReason: FinishReason.LENGTH, generatedTokens: drawn.length },
      ...{ textBytes: BigInt(offset), prefix: logs.have(sequenceId), cacheBytes: 0n },
    },
  });
}

function event(of: MessageInitShape<typeof GenerateResponseSchema>["event"]): GenerateResponse {
  return create(GenerateResponseSchema, of === undefined ? {} : { event: of });
}

function service(logs: Logs): Partial<ServiceImpl<typeof WorkerService>> {
  return {
    generate: (request) => generate(logs, request),
    release: ({ sequenceId }) => ({ released: logs.delete(sequenceId) }),
    getStatus: () =>
      create(GetStatusResponseSchema, {
        worker: workerName,
        backend: Backend.REFERENCE,
        models: [pacedModel, instantModel].map((model) => ({
          model,
          fingerprints,
          contextTokensMax,
        })),
        sequences: logs.count,
        pages: 1_000_000n,
        pagesFree: 1_000_000n,
      }),
  };
}

/** POST /v1/chat/completions, streamed. */
async function complete(request: IncomingMessage, response: ServerResponse): Promise<void> {
  let body = "";
  for await (const chunk of request.setEncoding("utf8")) {
    body += String(chunk);
    if (body.length > bodyBytesMax) throw new Error(`a body above ${bodyBytesMax} bytes`);
  }
  const asked = JSON.parse(body) as { model: string; max_tokens?: number };
  const { model } = asked;
  const chunk = (choice: object): Buffer =>
    Buffer.from(
      `data: ${JSON.stringify({
        ...{ id: "chatcmpl-stub", object: "chat.completion.chunk", created: 0, model },
        choices: [{ index: 0, logprobs: null, finish_reason: null, ...choice }],
      })}\n\n`,
    );
  // As the worker's server does: no form has its pieces cheaper than the other.
  writeTogether(response);
  response.writeHead(200, { "content-type": "text/event-stream" });
  response.write(chunk({ delta: { role: "assistant", content: "" } }));
  for await (const content of answer(model, asked.max_tokens ?? tokensDefault)) {
    response.write(chunk({ delta: { content } }));
  }
  response.write(chunk({ delta: {}, finish_reason: "length" }));
  response.end("data: [DONE]\n\n");
}

async function open(): Promise<Turns<StubAddresses>> {
  const worker = await startHttpServer(
    { host: "127.0.0.1", port: 0, loopback: true },
    {
      handlers: service(new Logs()) as ServiceImpl<typeof WorkerService>,
      token: undefined,
      pages: new Map(),
      log: (line) => console.error(`stub: ${line}`),
    },
  );
  const openAi = createServer({ keepAliveTimeout: 600_000 }, (request, response) => {
    complete(request, response).catch((error: unknown) => {
      console.error("stub:", error);
      response.destroy();
    });
  });
  await new Promise<void>((resolve) => openAi.listen(0, "127.0.0.1", resolve));
  const { port } = openAi.address() as AddressInfo;
  const addresses = { workerUrl: worker.url, openAiUrl: `http://127.0.0.1:${port}` };
  return {
    turn: () => Promise.resolve(addresses),
    async close() {
      openAi.closeAllConnections();
      openAi.close();
      await worker.close();
    },
  };
}

if (isProgram(import.meta.url)) takeTurns(open);
