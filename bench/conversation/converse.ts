/** A conversation through a gateway, timed by the client's clock. */
import { Backend, FinishReason } from "../../src/gen/leanedge/v1/session_pb.js";
import type { LeanedgeClient } from "../../src/client/index.js";

/** One question and its answer. */
export type Turn = {
  readonly question: string;
  readonly answer: string;
  /** `STOP` or `LENGTH`. */
  readonly finishReason: string;
  /** Tokens of the whole context before the answer, and how many of them were in the cache. */
  readonly promptTokens: number;
  readonly cachedTokens: number;
  readonly completionTokens: number;
  /** From the request to the first piece of the answer, milliseconds. */
  readonly firstMs: number;
  /** From the first piece to the last, milliseconds. */
  readonly restMs: number;
  /** Bytes of cache that the worker holds after the turn. */
  readonly cacheBytes: number;
};

/** What answered. */
export type Conversation = {
  /** How the worker's archive pages are stored. */
  readonly storage: string;
  readonly backend: string;
  readonly turns: readonly Turn[];
};

/** Asks the questions one after the other, at temperature 0. */
export async function converse(
  client: LeanedgeClient,
  options: {
    readonly storage: string;
    readonly model: string;
    /** Empty: none. */
    readonly system: string;
    readonly questions: readonly string[];
    /** Longest answer. */
    readonly maxTokens: number;
    readonly log: (line: string) => void;
  },
): Promise<Conversation> {
  const turns: Turn[] = [];
  let backend: Backend = Backend.UNSPECIFIED;
  for (const [index, question] of options.questions.entries()) {
    const startMs = performance.now();
    let firstMs: number | undefined;
    let answer = "";
    for await (const event of client.runTurn({
      sessionId: `conversation-${options.storage}`,
      turn: index + 1,
      text: question,
      model: options.model,
      sampling: { temperature: 0, maxTokens: options.maxTokens },
      ...(index === 0 && options.system !== "" ? { system: options.system } : {}),
    })) {
      if (event.type === "started") backend = event.started.backend;
      if (event.type === "delta") {
        firstMs ??= performance.now() - startMs;
        answer += event.text;
      }
      if (event.type !== "finished") continue;
      const { usage, finishReason, cacheBytes, errorMessage } = event.finished;
      if (usage === undefined || firstMs === undefined || errorMessage !== "") {
        throw new Error(`turn ${index + 1} has no answer: ${errorMessage}`);
      }
      turns.push({
        question,
        answer,
        finishReason: FinishReason[finishReason],
        promptTokens: usage.promptTokens,
        cachedTokens: usage.cachedTokens,
        completionTokens: usage.completionTokens,
        firstMs,
        restMs: performance.now() - startMs - firstMs,
        cacheBytes: Number(cacheBytes),
      });
      options.log(`${index + 1}. ${question}\n${answer}\n`);
    }
  }
  return { storage: options.storage, backend: Backend[backend].toLowerCase(), turns };
}
