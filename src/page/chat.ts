/**
 * One open chat: shows its transcript, runs turns, joins the turn that runs already. The transcript is
 * the gateway's; the page keeps nothing but the id of the chat, in the address.
 */
import { Code, ConnectError } from "@connectrpc/connect";
import type { LeanedgeClient, TurnRequest } from "../client/index.js";
import { FinishReason, Role, type Session } from "../gen/leanedge/v1/session_pb.js";
import type { LiveLine } from "./live-line.js";
import type { MemoryTable } from "./memory-table.js";
import type { MessageList } from "./message-list.js";

/** What a chat works with. */
export interface ChatParts {
  readonly client: LeanedgeClient;
  readonly messages: MessageList;
  readonly live: LiveLine;
  readonly memory: MemoryTable;
  /** A turn began or ended. */
  readonly onBusy: (busy: boolean) => void;
  /** Something went wrong; undefined takes an earlier message away. */
  readonly onError: (error: unknown) => void;
}

const messagesAPage = 200;

/** See the head of this file. */
export class Chat {
  readonly sessionId: string;
  readonly #parts: ChatParts;
  #stop: AbortController | undefined;
  #closed = false;

  constructor(parts: ChatParts, sessionId: string) {
    this.#parts = parts;
    this.sessionId = sessionId;
  }

  /** Shows the transcript; joins the turn that runs. */
  async open(): Promise<void> {
    const { client, messages, live } = this.#parts;
    messages.clear();
    const session = await this.#showFigures();
    if (session === undefined) return;
    const { runningTurn } = session;
    let pageToken = "";
    do {
      const page = await client.sessions.listMessages({
        sessionId: this.sessionId,
        pageSize: messagesAPage,
        pageToken,
      });
      if (this.#closed) return;
      for (const message of page.messages) {
        // The running answer comes from the stream, from its first byte on.
        const running = message.turn === runningTurn && message.message?.role === Role.ASSISTANT;
        if (!running) messages.add(message);
        if (message.message?.role === Role.ASSISTANT) live.stored(message);
      }
      pageToken = page.nextPageToken;
    } while (pageToken !== "");
    if (runningTurn > 0)
      await this.#run({ sessionId: this.sessionId, turn: runningTurn, text: "" });
  }

  /** The session; undefined for a chat without a message, which does not exist yet. */
  async #session(): Promise<Session | undefined> {
    try {
      const { sessions } = this.#parts.client;
      return (await sessions.getSession({ sessionId: this.sessionId })).session;
    } catch (error) {
      if (error instanceof ConnectError && error.code === Code.NotFound) return undefined;
      throw error;
    }
  }

  /** Shows what the chat holds and could hold. */
  async #showFigures(): Promise<Session | undefined> {
    const { client, live, memory } = this.#parts;
    const session = await this.#session();
    const model =
      session === undefined || session.plan === ""
        ? undefined
        : (await client.models.getModel({ model: session.model })).model;
    if (!this.#closed) {
      live.session(session);
      memory.show(session, model);
    }
    return session;
  }

  /** Sends a message and shows the answer as it comes. */
  async send(text: string): Promise<void> {
    this.#parts.messages.addUserText(text);
    await this.#run({ sessionId: this.sessionId, text });
  }

  /** Stops the running turn. */
  stop(): void {
    this.#stop?.abort();
  }

  /** Stops looking; a running turn goes on in the gateway. */
  close(): void {
    this.#closed = true;
  }

  async #run(request: TurnRequest): Promise<void> {
    const { client, messages, live, onBusy, onError } = this.#parts;
    const stop = new AbortController();
    this.#stop = stop;
    onError(undefined);
    onBusy(true);
    live.state("waiting");
    const answer = messages.beginAnswer();
    let reason = FinishReason.ERROR;
    try {
      for await (const event of client.runTurn({ ...request, signal: stop.signal })) {
        if (this.#closed) return;
        switch (event.type) {
          case "started":
            live.started(event.started);
            break;
          case "progress":
            live.state(
              event.promptTokens > 0
                ? `reading ${event.promptTokensDone} of ${event.promptTokens} tokens`
                : "waiting",
            );
            break;
          case "delta":
            live.state("");
            answer.append(event.text);
            live.delta(event.completionTokens, performance.now());
            break;
          case "reconnecting":
            live.state(`connection lost, attempt ${event.attempt} to resume`);
            break;
          case "finished":
            reason = event.finished.finishReason;
            live.finished(event.finished.usage);
            if (event.finished.errorMessage !== "") onError(event.finished.errorMessage);
        }
      }
    } catch (error) {
      if (stop.signal.aborted) reason = FinishReason.CANCELLED;
      else onError(error);
      live.state("");
    } finally {
      answer.finish(reason);
      if (!this.#closed) {
        onBusy(false);
        this.#showFigures().catch(onError);
      }
    }
  }
}
