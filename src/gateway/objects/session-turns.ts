/**
 * The turns of a session: begins, joins and replays them, runs one at a time, and gives out its answer. The rule of what a
 * call means is turn-start.ts's, the run itself turn-runner.ts's; here they meet keys, limits, streams and metrics.
 */
import { create } from "@bufbuild/protobuf";
import { FinishReason, GenerateRequestSchema } from "../../gen/leanedge/v1/session_pb.js";
import type { GenerateRequest } from "../../gen/leanedge/v1/session_pb.js";
import { errorFields } from "../../log/log-line.js";
import { modelDefaults } from "../catalogue.js";
import { findModel, gatewayConfig } from "../config.js";
import { orphanedTurnMs } from "../limits.js";
import { log } from "../log.js";
import { flushSoon } from "../metrics/isolate-meter.js";
import { turnEnded, turnRefused } from "../metrics/turn-end.js";
import { engineDirectory, refreshBeside } from "../worker-client/directory.js";
import { writtenAs } from "./answer-forms.js";
import { ChangeBell, streamAnswer } from "./answer-stream.js";
import type { AnswerStreamOptions } from "./answer-stream.js";
import { AnswerStreams } from "./answer-streams.js";
import { redirectResponse } from "./call-plan.js";
import type { CallPlan, StartOptions, StartedCall } from "./call-plan.js";
import { hashSampling, matchHistory } from "./history-match.js";
import { releaseLeft, releaseSequence } from "./left-workers.js";
import { checkSampling } from "./request-rules.js";
import { ResumePoint } from "./resume-point.js";
import type { SessionCall } from "./session-name.js";
import { releaseOptions } from "./session-parts.js";
import type { SessionParts } from "./session-parts.js";
import type { TurnRecord } from "./session-records.js";
import { Stop } from "./stop.js";
import { TurnRunner } from "./turn-runner.js";
import { beginsTurn, startTurn } from "./turn-start.js";
import type { TurnStart } from "./turn-start.js";
import { readTicket } from "./turn-ticket.js";
import type { TurnTicket } from "./turn-ticket.js";
/** See the head of this file. */
export class SessionTurns {
  readonly #parts: SessionParts;
  readonly #bell = new ChangeBell();
  readonly #streams = new AnswerStreams((turn) => this.#lastLeft(turn));
  #runner: TurnRunner | undefined;

  /** Runs nothing yet. */
  constructor(parts: SessionParts) {
    this.#parts = parts;
  }

  /** Who runs the turn that runs; undefined if none does, or its object lost its memory. */
  get runner(): TurnRunner | undefined {
    return this.#runner;
  }

  /** No turn runs here, and nobody listens to one. */
  get idle(): boolean {
    return this.#runner === undefined && this.#streams.count === 0;
  }

  /** Lets open streams look again: the session was deleted. */
  wake(): void {
    this.#bell.ring();
  }

  /** Generate: begins, joins or replays a turn. `head`: headers of the answer, also of an error. */
  async generate(
    call: SessionCall,
    request: GenerateRequest,
    signal: AbortSignal,
    head: Map<string, string>,
  ): Promise<Response> {
    if (request.sampling !== undefined) {
      checkSampling(request.sampling);
    }
    const form = { history: false, requestHash: hashSampling(request.sampling) };
    return this.#limited(call, request, head, () => ({
      begins: beginsTurn(request, this.#parts.store) ? request.messages : undefined,
      start: (ticket) => this.#start({ call, request, signal, head, ticket, form }),
    }));
  }

  /** A request in OpenAI form: its whole history says which turn it means, or that it belongs to a fork. */
  async chat(
    call: SessionCall,
    request: GenerateRequest,
    signal: AbortSignal,
    head: Map<string, string>,
  ): Promise<Response> {
    if (request.sampling !== undefined) {
      checkSampling(request.sampling);
    }
    const plan = (): CallPlan => {
      const match = matchHistory(this.#parts.store, request, {
        idempotencyKey: call.idempotencyKey,
        sessionId: call.sessionId,
      });
      if (match.kind === "fork") {
        return { redirect: { turn: match.turn, sessionId: match.sessionId } };
      }
      const turnRequest = create(GenerateRequestSchema, {
        ...request,
        turn: match.turn,
        messages: match.messages,
      });
      const form = { history: true, requestHash: match.requestHash };
      return {
        begins: beginsTurn(turnRequest, this.#parts.store) ? match.messages : undefined,
        start: (ticket) => this.#start({ call, request: turnRequest, signal, head, ticket, form }),
      };
    };
    return this.#limited(call, request, head, plan);
  }

  /** Ends the running turn as cancelled. False if it ended in another way first. */
  async stop(): Promise<boolean> {
    const turn = this.#parts.store.runningTurn();
    if (turn === undefined) {
      return false;
    }
    if (this.#runner === undefined) {
      this.#endOrphan(turn);
      await this.#parts.storeNow();
      this.#parts.changed();
      return true;
    }
    const runner = this.#runner;
    runner.cancel();
    await runner.done;
    return this.#parts.store.turn(turn.number)?.finishReason === FinishReason.CANCELLED;
  }

  /** Takes up, or ends, a running turn without a runner: the object lost its memory. */
  async takeUp(): Promise<void> {
    const turn = this.#parts.store.runningTurn();
    if (turn === undefined || this.#runner !== undefined) {
      return;
    }
    if (turn.detach) {
      this.#run(turn, false);
      return;
    }
    const nowMs = this.#parts.clock.nowMs();
    if (turn.orphanMs === 0) {
      this.#parts.store.setOrphaned(nowMs);
    } else if (nowMs - turn.orphanMs >= orphanedTurnMs) {
      this.#endOrphan(turn);
      await this.#parts.store.sync();
    }
  }

  /** Starts what a call means once its key's limits allow it; what it means is asked again whenever time has passed. */
  async #limited(
    call: SessionCall,
    request: GenerateRequest,
    head: Map<string, string>,
    plan: () => CallPlan,
  ): Promise<Response> {
    let first: CallPlan | undefined = plan();
    if ("redirect" in first) {
      return redirectResponse(first.redirect);
    }
    const makesSession = this.#parts.store.session() === undefined && request.turn <= 1;
    if (makesSession && call.key?.limits.sessions !== undefined) {
      await this.#parts.limits.reserveSession(call.key, call.tenant, call.sessionId);
      first = undefined;
    }
    const { key, again = false } = call;
    const { maxTokens } = request.sampling ?? {};
    const started = await this.#parts.limits.admitted({ key, maxTokens, again }, head, () => {
      // A history is long to compare: what was just found is still so, until something was waited for.
      const now = first ?? plan();
      first = undefined;
      return "redirect" in now
        ? {
            messages: undefined,
            begin: () => ({
              respond: () => Promise.resolve(redirectResponse(now.redirect)),
              begun: false,
            }),
          }
        : { messages: now.begins, begin: now.start };
    });
    if (request.detach && this.#parts.store.waiting) {
      // Its client may leave as soon as it hears of the turn, and counts on it.
      await this.#parts.storeNow();
    }
    return started.respond();
  }

  #start({ call, request, signal, head, ticket, form }: StartOptions): StartedCall {
    const offset = Number(request.resumeOffset);
    const resume = new ResumePoint({ offset, hash: request.resumeHash });
    const start = startTurn(request, {
      store: this.#parts.store,
      tenant: call.tenant,
      sessionId: call.sessionId,
      requestId: call.requestId,
      nowMs: this.#parts.clock.nowMs(),
      model: findModel(gatewayConfig(this.#parts.env), request.model)?.model,
      history: form.history,
      requestHash: form.requestHash,
      idempotencyKey: call.idempotencyKey,
      ticket,
    });
    const { turn } = start;
    if (turn.running && this.#runner === undefined) {
      this.#run(turn, start.begun);
    }
    // What can be told at once is refused at once.
    resume.reached(this.#parts.store, turn);
    return {
      respond: this.#answer(call, start, { offset, resume }, signal, head),
      begun: start.begun,
    };
  }

  #runnerOf(turn: number): TurnRunner | undefined {
    return this.#runner?.turn === turn ? this.#runner : undefined;
  }

  #run({ number, requestId, ticket: ticketText }: TurnRecord, fresh: boolean): void {
    const ticket = readTicket(ticketText);
    const directory = engineDirectory(this.#parts.env);
    const background = (work: Promise<unknown>): void => this.#parts.ctx.waitUntil(work);
    const runner = new TurnRunner({
      store: this.#parts.store,
      turn: number,
      fresh,
      directory,
      background,
      sequenceId: this.#parts.sequenceId(),
      samplingDefaults: async (model) => ({
        ...(await modelDefaults(this.#parts.env, model, this.#parts.store.binding())),
        outputTokensMax: ticket?.outputTokens,
      }),
      contextTokensMax: ticket?.contextTokens,
      fallback: (model) => findModel(gatewayConfig(this.#parts.env), model)?.fallback,
      snapshots: this.#parts.snapshots,
      snapshotIdleMs: gatewayConfig(this.#parts.env).snapshotIdleMs,
      clock: this.#parts.clock,
      onChange: () => this.#bell.ring(),
      storeNow: () => this.#parts.storeNow(),
    });
    this.#runner = runner;
    const over = this.#keepPlace(ticket);
    const release = this.#parts.keys.hold(ticket?.keyId ?? "", () => runner.cancel());
    this.#parts.ctx.waitUntil(
      runner.done.then(() => {
        over();
        release();
        // Before anything else: a deletion of the session waits for the same end, and takes the turn with it.
        try {
          this.#settle(number, ticket);
          this.#noteEnd(runner, requestId);
        } catch (error) {
          // Who reads the answer waits for what comes next, whatever could not be told.
          log("error", "turn.end_not_told", errorFields(error, "stack"));
        }
        this.#ran(runner);
        // A turn that was answered at once has not asked.
        refreshBeside(directory, background);
      }),
    );
  }

  /** Keeps a turn's place under its key's limits until what it returns is called; most turns need none. */
  #keepPlace(ticket: TurnTicket | undefined): () => void {
    if (ticket?.lease === undefined) {
      return () => undefined;
    }
    const over = new Stop();
    this.#parts.ctx.waitUntil(this.#parts.limits.keep(ticket, over));
    return () => over.stop();
  }

  /** Leaves what a turn came to in metrics and log; a turn that was withdrawn is not stored any more. */
  #noteEnd({ attemptsMade, refusal, turn: number }: TurnRunner, requestId: string): void {
    const turn = this.#parts.store.turn(number);
    if (turn !== undefined && !turn.running) {
      turnEnded(turn, attemptsMade);
    } else if (refusal !== undefined) {
      turnRefused(requestId, number, refusal);
    }
    flushSoon(this.#parts.env, this.#parts.ctx);
  }

  /** Tells the key that began a turn what it took; a turn that was withdrawn took nothing. */
  #settle(number: number, ticket: TurnTicket | undefined): void {
    const turn = this.#parts.store.turn(number);
    if (ticket?.lease !== undefined && turn?.running !== true) {
      const tokens =
        turn === undefined ? 0 : turn.promptTokens - turn.cachedTokens + turn.completionTokens;
      this.#parts.ctx.waitUntil(this.#parts.limits.settle(ticket, tokens));
    }
  }

  /** After a turn: what it leaves to do. */
  #ran(runner: TurnRunner): void {
    if (this.#runner === runner) {
      this.#runner = undefined;
    }
    const session = this.#parts.store.session();
    if (
      runner.refusal !== undefined &&
      session?.implicit === true &&
      this.#parts.store.lastTurn() === 0
    ) {
      // The session existed for this turn only.
      this.#parts.ctx.waitUntil(releaseSequence(releaseOptions(this.#parts)));
      this.#parts.store.atomically(() =>
        this.#parts.store.deleteSession(this.#parts.clock.nowMs()),
      );
    } else if (session !== undefined) {
      this.#releaseLeft();
    }
    this.#bell.ring();
    this.#parts.changed();
  }

  #releaseLeft(): void {
    if (this.#parts.store.left.all().length > 0) {
      this.#parts.ctx.waitUntil(releaseLeft(releaseOptions(this.#parts)));
    }
  }

  /** Opens an answer; what it returns gives the response, once its head is known. */
  #answer(
    call: SessionCall,
    start: TurnStart,
    from: Pick<AnswerStreamOptions, "offset" | "resume">,
    signal: AbortSignal,
    head: Map<string, string>,
  ): () => Promise<Response> {
    const { number } = start.turn;
    const { clock, ctx, env, keys, store } = this.#parts;
    const runner = this.#runnerOf(number);
    const workerBefore = store.turn(number - 1)?.worker ?? "";
    const answer = this.#streams.open(number, {
      signal,
      events: (left) =>
        streamAnswer({
          store,
          sessionId: call.sessionId,
          turn: number,
          ...from,
          resumed: !start.begun,
          runner,
          live: () => runner !== undefined && this.#runner === runner,
          bell: this.#bell,
          clock,
          signal: left,
        }),
      ...writtenAs(call.form, {
        answer: { sessionId: call.sessionId, workerBefore, nowMs: clock.nowMs() },
        watched: { env, lifetime: ctx },
      }),
      hold: (end) => keys.hold(call.key?.keyId ?? "", end),
      timeoutMs: call.timeoutMs,
      clock,
    });
    return () => answer.response(head);
  }

  /** The last client of a turn left: that stops it, unless it is detached. */
  #lastLeft(turn: number): void {
    if (this.#parts.store.turn(turn)?.detach === false) {
      this.#runnerOf(turn)?.cancel();
    }
  }

  #endOrphan(turn: TurnRecord): void {
    const nowMs = this.#parts.clock.nowMs();
    this.#parts.store.atomically(() => {
      this.#parts.store.endTurn(turn.number, {
        finishReason: FinishReason.CANCELLED,
        errorMessage: "",
        generatedTokens: undefined,
        cacheBytes: this.#parts.store.session()?.cacheBytes ?? 0,
        nowMs,
      });
      this.#parts.store.touch(nowMs);
    });
    this.#settle(turn.number, readTicket(turn.ticket));
    this.#bell.ring();
  }
}
