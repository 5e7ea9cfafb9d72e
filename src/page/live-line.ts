/** The line of figures under the chat. Speed is measured here, by the client's own clock. */
import {
  Backend,
  type Session,
  type TranscriptMessage,
  type TurnStarted,
  type Usage,
} from "../gen/leanedge/v1/session_pb.js";
import { element } from "./elements.js";
import { mebibytes } from "./memory-table.js";

const backends: Partial<Record<Backend, string>> = {
  [Backend.REFERENCE]: "reference",
  [Backend.WASM]: "WASM",
  [Backend.CUDA]: "GPU",
};

/** See the head of this file. */
export class LiveLine {
  readonly #backend = element("live-backend", HTMLElement);
  readonly #speed = element("live-speed", HTMLElement);
  readonly #prompt = element("live-prompt", HTMLElement);
  readonly #cached = element("live-cached", HTMLElement);
  readonly #cacheBytes = element("live-cache-bytes", HTMLElement);
  readonly #pages = element("live-pages", HTMLElement);
  readonly #plan = element("live-plan", HTMLElement);
  readonly #state = element("live-state", HTMLElement);
  #firstDeltaMs: number | undefined;
  #firstTokens = 0;

  started(started: TurnStarted): void {
    const backend = backends[started.backend];
    if (backend !== undefined) this.#backend.textContent = `${started.model} on ${backend}`;
    if (started.promptTokens > 0) {
      this.#prompt.textContent = started.promptTokens.toLocaleString("en");
      this.#cached.textContent = started.cachedTokens.toLocaleString("en");
    }
    this.#firstDeltaMs = undefined;
  }

  /** Figures of an answer from the transcript; its speed is not kept. */
  stored({ model, backend, usage }: TranscriptMessage): void {
    const name = backends[backend];
    if (name !== undefined) this.#backend.textContent = `${model} on ${name}`;
    this.#speed.textContent = "–";
    this.#usage(usage);
  }

  /** Tokens so far; the rate counts from the first piece, so that it is the speed of decoding. */
  delta(completionTokens: number, nowMs: number): void {
    if (this.#firstDeltaMs === undefined) {
      this.#firstDeltaMs = nowMs;
      this.#firstTokens = completionTokens;
      return;
    }
    const seconds = (nowMs - this.#firstDeltaMs) / 1000;
    if (seconds > 0) {
      this.#speed.textContent = ((completionTokens - this.#firstTokens) / seconds).toFixed(1);
    }
  }

  finished(usage: Usage | undefined): void {
    this.#usage(usage);
    this.state("");
  }

  /** What the session holds; undefined for a chat that does not exist yet. */
  session(session: Session | undefined): void {
    const plan = session?.plan ?? "";
    this.#cacheBytes.textContent = session === undefined ? "–" : mebibytes(session.cacheBytes);
    this.#pages.textContent = session?.cachePages.toLocaleString("en") ?? "–";
    this.#plan.textContent = plan === "" ? "–" : plan;
  }

  #usage(usage: Usage | undefined): void {
    if (usage === undefined) return;
    this.#prompt.textContent = usage.promptTokens.toLocaleString("en");
    this.#cached.textContent = usage.cachedTokens.toLocaleString("en");
  }

  state(text: string): void {
    this.#state.textContent = text;
  }
}
