/**
 * A worker that computes nothing: it speaks leanedge.worker.v1 truthfully (log, prefixes, generations, resume) and
 * answers as the conversation's last message tells it to. A message that starts with `!` carries a script in JSON:
 * `!{"tokens":3}`. So a test needs no handle on the worker, and a resumed answer goes on by itself.
 *
 * Its ids: bytes of the text are 0 to 255, the start of a message is 256 + role, token i of an answer is 1000 + i.
 */
import { create } from "@bufbuild/protobuf";
import type { MessageInitShape } from "@bufbuild/protobuf";
import { Code, ConnectError, createConnectRouter, createContextValues } from "@connectrpc/connect";
import type { HandlerContext, ServiceImpl } from "@connectrpc/connect";
import { createFetchHandler } from "@connectrpc/connect/protocol";
import { DurableObject } from "cloudflare:workers";
import { Backend, FinishReason } from "../../gen/leanedge/v1/session_pb.js";
import {
  GenerateResponseSchema,
  GetStatusResponseSchema,
  SegmentKind,
  WorkerService,
} from "../../gen/leanedge/worker/v1/worker_pb.js";
import type { GenerateRequest, GenerateResponse } from "../../gen/leanedge/worker/v1/worker_pb.js";
import {
  logTokens,
  namePrefix,
  packIds,
  samePrefix,
  segmentsBefore,
  unpackIds,
} from "../worker-client/segments.js";
import type { PackedSegment } from "../worker-client/segments.js";

/** Window of the scripted model, in tokens. */
export const scriptedWindow = 4_000;
/** First id of an answer. */
const answerIdBase = 1_000;
const startIdBase = 256;

/** How to answer. */
export interface Script {
  /** Words of the answer, `w0 w1 …`; 5 if unset. */
  readonly tokens?: number;
  /** The answer itself, one token a character; instead of `tokens`. */
  readonly text?: string;
  /** Pause before each token, in milliseconds; 0 if unset. */
  readonly delayMs?: number;
  /** Pause before `accepted`. */
  readonly acceptDelayMs?: number;
  /** Break the stream before this token, `failTimes` times (1 if unset). */
  readonly failAt?: number;
  readonly failTimes?: number;
  /** Say nothing more from this token on, or after the last one; `hangTimes` times, or always if unset. */
  readonly hangAt?: number;
  readonly hangTimes?: number;
  /** Refuse the call with this code and message; `failTimes` times, or always if unset. */
  readonly refuse?: { readonly code: Code; readonly message: string };
  /** Throw a plain error before `accepted`, as a bug would. */
  readonly crash?: boolean;
  /** What to lie about. */
  readonly lie?: "prompt" | "finished" | "have" | "gap" | "end";
  /** How it ends; STOP if unset. */
  readonly finish?: FinishReason;
  /** Its backend; REFERENCE if unset. */
  readonly backend?: Backend;
  /** Progress events before the first token. */
  readonly progress?: number;
}

/** What the engine remembers of a call. */
export interface ScriptedCall {
  readonly sequenceId: string;
  readonly generation: number;
  readonly prefixTokens: number;
  readonly logTokens: number;
  readonly messages: readonly string[];
  readonly resumedTokens: number | undefined;
  readonly requestId: string;
  readonly seed: string;
  readonly textIntervalMs: number;
  /** What it began with: `accepted`, `missing`, or the name of an error. */
  outcome: string;
  /** Tokens that were drawn before it ended. */
  drawn: number;
  /** How it ended. */
  end: "running" | "finished" | "left" | "failed";
}

interface Sequence {
  log: PackedSegment[];
  generation: number;
  stop: AbortController | undefined;
}

/** See the head of this file. */
export class ScriptedEngine extends DurableObject {
  readonly #sequences = new Map<string, Sequence>();
  readonly #failures = new Map<string, number>();
  readonly #calls: ScriptedCall[] = [];
  readonly #released: string[] = [];
  #fingerprint = "template-1";

  /** Calls of Generate so far. */
  seenCalls(): ScriptedCall[] {
    return this.#calls.map((call) => ({ ...call }));
  }

  /** Sequences that were released. */
  released(): string[] {
    return [...this.#released];
  }

  /** Loses a sequence, as a worker may at any time. */
  forgetSequence(sequenceId: string): void {
    this.#sequences.delete(sequenceId);
  }

  /** Serves another chat template from now on. */
  changeTemplate(fingerprint: string): void {
    this.#fingerprint = fingerprint;
  }

  override async fetch(request: Request): Promise<Response> {
    const router = createConnectRouter({ grpc: false, grpcWeb: false, connect: true });
    router.service(WorkerService, this.#service());
    const path = new URL(request.url).pathname;
    const handler = router.handlers.find((candidate) => candidate.requestPath === path);
    if (handler === undefined) {
      return new Response("no such call", { status: 404 });
    }
    return createFetchHandler((universal) =>
      handler({ ...universal, contextValues: createContextValues() }),
    )(request);
  }

  #service(): Partial<ServiceImpl<typeof WorkerService>> {
    return {
      generate: (request, context) => this.#generate(request, context),
      release: (request) => {
        this.#released.push(request.sequenceId);
        return { released: this.#sequences.delete(request.sequenceId) };
      },
      fork: (request) => {
        const log = this.#sequences.get(request.sequenceId)?.log ?? [];
        const count = segmentsBefore(log, request.prefix?.tokens ?? 0);
        const kept = log.slice(0, count ?? 0);
        if (
          request.prefix === undefined ||
          !samePrefix(request.prefix, namePrefix(kept, undefined))
        ) {
          throw new ConnectError("the worker does not have that prefix", Code.NotFound);
        }
        this.#sequences.set(request.newSequenceId, { log: kept, generation: 0, stop: undefined });
        return { cachedTokens: logTokens(kept) };
      },
      getStatus: () =>
        create(GetStatusResponseSchema, {
          // One in a pool says its own name.
          worker: this.ctx.id.name?.startsWith("pooled-") === true ? this.ctx.id.name : "scripted",
          backend: Backend.REFERENCE,
          models: ["scripted", "second"].map((model) => ({
            model,
            fingerprints: { model: "model-1", template: this.#fingerprint, plan: "plan-1" },
            contextTokensMax: scriptedWindow,
            pageBytes: 1024n,
            sequenceBytes: 2048n,
            info: { architecture: "scripted", parameterCount: 29n, fileBytes: 58n },
          })),
        }),
    };
  }

  async *#generate(
    request: GenerateRequest,
    context: HandlerContext,
  ): AsyncGenerator<GenerateResponse, void, undefined> {
    const call: ScriptedCall = {
      sequenceId: request.sequenceId,
      generation: Number(request.generation),
      prefixTokens: request.prefix?.tokens ?? 0,
      logTokens: request.log.reduce((sum, segment) => sum + segment.ids.length, 0),
      messages: request.messages.map((message) => message.text),
      resumedTokens: request.resume?.generatedTokens,
      requestId: request.requestId,
      seed: String(request.sampling?.seed ?? "unset"),
      textIntervalMs: request.textIntervalMs,
      outcome: "",
      drawn: 0,
      end: "running",
    };
    this.#calls.push(call);
    context.signal.addEventListener("abort", () => {
      if (call.end === "running") call.end = "left";
    });
    try {
      yield* this.#answer(request, context, call);
      call.end = "finished";
    } catch (error) {
      if (call.end === "running") call.end = "failed";
      throw error;
    }
  }

  async *#answer(
    request: GenerateRequest,
    context: HandlerContext,
    call: ScriptedCall,
  ): AsyncGenerator<GenerateResponse, void, undefined> {
    const sequence = this.#takeOver(request);
    const fingerprints = { model: "model-1", template: this.#fingerprint, plan: "plan-1" };
    const named = request.prefix?.fingerprints?.template ?? "";
    if ((request.prefix?.tokens ?? 0) > 0 && named !== this.#fingerprint) {
      throw new ConnectError("another template than the prefix names", Code.FailedPrecondition);
    }
    const log = extendLog(sequence.log, request);
    if (log === undefined) {
      call.outcome = "missing";
      yield event({ case: "prefixMissing", value: { have: namePrefix(sequence.log, undefined) } });
      return;
    }
    const cachedTokens = Math.min(request.prefix?.tokens ?? 0, logTokens(log));
    const promptIds = request.messages.flatMap(({ role, text }) => [
      startIdBase + role,
      ...new TextEncoder().encode(text),
    ]);
    if (promptIds.length > 0) log.push({ kind: SegmentKind.PROMPT, ids: packIds(promptIds) });
    const promptTokens = logTokens(log) - (request.resume?.generatedTokens ?? 0);
    if (promptTokens >= scriptedWindow) {
      throw new ConnectError(
        `the prompt has ${promptTokens} tokens, the window has ${scriptedWindow}`,
        Code.InvalidArgument,
      );
    }
    const script = readScript(log);
    const failureKey = `${request.sequenceId}:${promptTokens}`;
    if (script.crash === true) throw new TypeError("a bug with a secret");
    if (script.refuse !== undefined && this.#fails(failureKey, script.failTimes ?? Infinity)) {
      throw new ConnectError(script.refuse.message, script.refuse.code);
    }
    if (script.lie === "have" && request.prefix?.tokens !== 0) {
      call.outcome = "missing";
      const have = { ...namePrefix(log, undefined), tokens: 7, sha256: new Uint8Array(32) };
      yield event({ case: "prefixMissing", value: { have } });
      return;
    }
    await pause(script.acceptDelayMs ?? 0, context.signal);
    sequence.log = log;
    call.outcome = "accepted";
    yield event({
      case: "accepted",
      value: {
        promptIds,
        promptTokens: promptTokens + (script.lie === "prompt" ? 1 : 0),
        cachedTokens,
        backend: script.backend ?? Backend.REFERENCE,
        worker: `scripted:${this.ctx.id.name ?? ""}`,
        fingerprints,
      },
    });
    for (let step = 1; step <= (script.progress ?? 0); step++) {
      await pause(script.delayMs ?? 0, context.signal);
      yield event({ case: "progress", value: { promptTokensDone: step } });
    }

    const words = answerWords(script);
    const generated = request.resume?.generatedTokens ?? 0;
    const max = request.sampling?.maxTokens ?? words.length;
    const end = Math.min(words.length, max);
    const ids = unpackIds(answerOf(log));
    let offset = byteLength(words.slice(0, generated).join(""));
    for (let index = generated; index < end; index++) {
      await pause(script.delayMs ?? 0, context.signal);
      sequence.stop?.signal.throwIfAborted();
      if (script.hangAt === index) await this.#hang(script, context.signal);
      if (script.failAt === index && this.#fails(failureKey, script.failTimes ?? 1)) {
        throw new ConnectError("the engine restarts", Code.Unavailable);
      }
      const text = words[index] ?? "";
      ids.push(answerIdBase + index);
      call.drawn++;
      sequence.log = withAnswer(log, ids);
      yield event({
        case: "tokens",
        value: {
          ids: [answerIdBase + index],
          text,
          offset: BigInt(offset + (script.lie === "gap" && index === 2 ? 1 : 0)),
        },
      });
      offset += byteLength(text);
    }
    if (script.hangAt === end) await this.#hang(script, context.signal);
    if (script.lie === "end") return;
    const prefix = namePrefix(sequence.log, undefined);
    if (script.lie === "finished") prefix.sha256 = new Uint8Array(32);
    yield event({
      case: "finished",
      value: {
        finishReason:
          script.finish ?? (end < words.length ? FinishReason.LENGTH : FinishReason.STOP),
        usage: { promptTokens, cachedTokens, completionTokens: end },
        generatedTokens: end,
        textBytes: BigInt(offset),
        prefix,
        cacheBytes: BigInt(logTokens(sequence.log) * 16),
      },
    });
  }

  #takeOver(request: GenerateRequest): Sequence {
    const generation = Number(request.generation);
    const sequence = this.#sequences.get(request.sequenceId) ?? {
      log: [],
      generation,
      stop: undefined,
    };
    if (generation < sequence.generation) {
      throw new ConnectError(
        `generation ${generation} is older than ${sequence.generation}`,
        Code.Aborted,
      );
    }
    sequence.stop?.abort(new ConnectError("taken over", Code.Aborted));
    sequence.stop = new AbortController();
    sequence.generation = generation;
    this.#sequences.set(request.sequenceId, sequence);
    return sequence;
  }

  /** Counted for the script as it was written, whichever sequence it came with. */
  async #hang(script: Script, left: AbortSignal): Promise<void> {
    if (this.#fails(`hang ${JSON.stringify(script)}`, script.hangTimes ?? Infinity)) {
      await new Promise<never>((_, reject) => {
        left.addEventListener("abort", () => reject(new ConnectError("left", Code.Canceled)));
      });
    }
  }

  #fails(key: string, times: number): boolean {
    const failed = this.#failures.get(key) ?? 0;
    if (failed >= times) return false;
    this.#failures.set(key, failed + 1);
    return true;
  }
}

/** The log that the request means; undefined if its prefix is not what we have. */
function extendLog(
  held: readonly PackedSegment[],
  request: GenerateRequest,
): PackedSegment[] | undefined {
  const prefix = request.prefix;
  let kept: readonly PackedSegment[] = [];
  if (prefix !== undefined && prefix.tokens > 0) {
    const count = segmentsBefore(held, prefix.tokens);
    if (count === undefined) return undefined;
    kept = held.slice(0, count);
    if (!samePrefix(prefix, namePrefix(kept, undefined))) return undefined;
  }
  const more = request.log.map((segment) => ({
    kind: segment.kind === SegmentKind.PROMPT ? SegmentKind.PROMPT : SegmentKind.GENERATED,
    ids: packIds(segment.ids),
  })) as PackedSegment[];
  return [...kept, ...more];
}

/** The script in the last message of the last prompt. */
function readScript(log: readonly PackedSegment[]): Script {
  const prompt = log.findLast((segment) => segment.kind === SegmentKind.PROMPT);
  const ids = prompt === undefined ? [] : unpackIds(prompt.ids);
  const start = ids.findLastIndex((id) => id >= startIdBase);
  const text = new TextDecoder().decode(new Uint8Array(ids.slice(start + 1)));
  return text.startsWith("!") ? (JSON.parse(text.slice(1)) as Script) : {};
}

function answerWords(script: Script): string[] {
  return script.text !== undefined
    ? [...script.text]
    : Array.from({ length: script.tokens ?? 5 }, (_, index) => `w${index} `);
}

function answerOf(log: readonly PackedSegment[]): Uint8Array {
  const last = log.at(-1);
  return last?.kind === SegmentKind.GENERATED ? last.ids : new Uint8Array(0);
}

function withAnswer(log: readonly PackedSegment[], ids: readonly number[]): PackedSegment[] {
  const before = log.at(-1)?.kind === SegmentKind.GENERATED ? log.slice(0, -1) : log;
  return [...before, { kind: SegmentKind.GENERATED, ids: packIds(ids) }];
}

function byteLength(text: string): number {
  return new TextEncoder().encode(text).byteLength;
}

function event(value: MessageInitShape<typeof GenerateResponseSchema>["event"]): GenerateResponse {
  return create(GenerateResponseSchema, { event: value });
}

async function pause(ms: number, signal: AbortSignal): Promise<void> {
  if (ms > 0) await new Promise((resolve) => setTimeout(resolve, ms));
  signal.throwIfAborted();
}
