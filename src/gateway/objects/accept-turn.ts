/** What it means that a worker accepts a turn: what it says is checked against what the session has, and stored. */
import type { SamplingParams } from "../../gen/leanedge/v1/sampling_pb.js";
import { PlacementReason } from "../../gen/leanedge/v1/session_pb.js";
import type { Accepted } from "../../gen/leanedge/worker/v1/worker_pb.js";
import { bindingTtlMs, segmentIdsMax } from "../limits.js";
import { logTokens } from "../worker-client/segments.js";
import type { ReceivedAnswer } from "./received-answer.js";
import { checkContext } from "./session-limits.js";
import type { TurnRecord } from "./session-records.js";
import type { SessionStore } from "./session-store.js";
import type { WorkerChoice } from "./worker-chooser.js";
import { WorkerFault } from "./worker-fault.js";

/** Progress that is not worth storing. */
export interface TurnProgress {
  /** Prompt tokens computed so far. */
  readonly promptTokensDone: number;
  /** Prompt tokens in all; 0 while unknown. */
  readonly promptTokens: number;
}

/** What was asked of the worker, and what is there. */
export interface AcceptedAttempt {
  readonly store: SessionStore;
  /** The turn, with the model that was asked for. */
  readonly turn: TurnRecord;
  readonly choice: WorkerChoice;
  readonly sampling: SamplingParams;
  /** The prompt renders the whole transcript. */
  readonly rebuilt: boolean;
  /** Learns how large the worker's vocabulary is. */
  readonly answer: ReceivedAnswer;
  /** Longest context that the key of the turn allows, in tokens; undefined: no limit. */
  readonly contextTokensMax: number | undefined;
  /** Milliseconds since 1970. */
  readonly nowMs: number;
}

/**
 * Stores it, behind what is shown; the session is bound to the worker from now on. Gives how far the prompt is.
 *
 * @throws WorkerFault where the worker counts otherwise than the session, RESOURCE_EXHAUSTED where the prompt fills the key's
 *   context: nothing is stored then
 */
export function acceptTurn(accepted: Accepted, attempt: AcceptedAttempt): TurnProgress {
  const { answer, choice, contextTokensMax, nowMs, rebuilt, sampling, store, turn } = attempt;
  const standsIn = turn.model !== store.session()?.model;
  answer.vocabSize = accepted.vocabSize > 0 ? accepted.vocabSize : Infinity;
  checkPrompt(accepted, attempt);
  if (!turn.accepted) {
    checkContext(accepted.promptTokens, contextTokensMax);
  }
  store.later(() => {
    if (!turn.accepted) {
      store.acceptPrompt({
        turn: turn.number,
        sampling,
        promptIds: accepted.promptIds,
        fingerprints: accepted.fingerprints,
        rebuilt,
      });
    }
    store.setServedBy(turn.number, {
      promptTokens: accepted.promptTokens,
      // An answer that goes on elsewhere has read its prompt again.
      cachedTokens: Math.min(
        accepted.cachedTokens,
        turn.accepted ? turn.cachedTokens : accepted.promptTokens,
      ),
      model: turn.model,
      backend: accepted.backend,
      worker: accepted.worker,
      placement: standsIn ? PlacementReason.FALLBACK : choice.reason,
    });
    const { plan } = accepted;
    if (plan !== undefined) {
      store.cache.setPlan({
        name: plan.name,
        pagesMax: plan.pagesMax,
        bytesMax: Number(plan.sessionBytesMax),
      });
    }
    // A session keeps its place while another model stands in.
    if (!standsIn) {
      store.bind(choice, choice.generation, nowMs + bindingTtlMs);
    }
  });
  return { promptTokensDone: accepted.cachedTokens, promptTokens: accepted.promptTokens };
}

/** Throws WorkerFault unless the worker made of the prompt what can be kept, and counts what the log has with it. */
function checkPrompt(
  { promptIds, promptTokens }: Accepted,
  { answer, rebuilt, store, turn }: AcceptedAttempt,
): void {
  if (promptIds.length > segmentIdsMax) {
    throw new WorkerFault(
      `the worker made ${promptIds.length} ids of the prompt, at most ${segmentIdsMax} are kept`,
    );
  }
  answer.checkIds(promptIds);
  const known = rebuilt ? 0 : logTokens(store.segments());
  const expected = turn.accepted ? known : known + promptIds.length;
  if (promptTokens !== expected) {
    throw new WorkerFault(
      `the worker counts ${promptTokens} prompt tokens, the log has ${expected}`,
    );
  }
}
