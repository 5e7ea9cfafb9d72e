/** What a chat takes of the engine's memory under its cache plan: computed from the plan, equal to what is allocated. */
import type { ModelInfo } from "../gen/leanedge/v1/model_pb.js";
import type { Session } from "../gen/leanedge/v1/session_pb.js";
import { element } from "./elements.js";

/** A size for people. */
export function mebibytes(bytes: bigint): string {
  return `${(Number(bytes) / 2 ** 20).toFixed(2)} MiB`;
}

/** See the head of this file. */
export class MemoryTable {
  readonly #root = element("memory", HTMLDetailsElement);
  readonly #token = element("memory-token", HTMLElement);
  readonly #start = element("memory-start", HTMLElement);
  readonly #now = element("memory-now", HTMLElement);
  readonly #longest = element("memory-longest", HTMLElement);
  readonly #context = element("memory-context", HTMLElement);

  /** Shows a session's figures; hides the table where its plan is not known. */
  show(session: Session | undefined, model: ModelInfo | undefined): void {
    const plan = model?.plans.find(({ fingerprint }) => fingerprint === session?.planFingerprint);
    this.#root.hidden = session === undefined || plan === undefined;
    if (session === undefined || plan === undefined) return;
    const pages = (count: number): string =>
      `${count.toLocaleString("en")} ${count === 1 ? "page" : "pages"}`;
    this.#token.textContent = `${plan.archiveBytesPerToken.toLocaleString("en")} bytes`;
    this.#start.textContent = mebibytes(plan.sequenceBytes);
    this.#now.textContent = `${mebibytes(session.cacheBytes)}, ${pages(session.cachePages)}`;
    this.#longest.textContent = `${mebibytes(session.cacheBytesLongest)}, ${pages(session.cachePagesLongest)}`;
    this.#context.textContent = `${plan.contextTokensBudget.toLocaleString("en")} tokens`;
  }
}
