/**
 * Somebody who uses some sessions in whatever way chance wants, one call after the other, and knows what each of them must hold. Objects
 * may be lost under any call: it is made again then, as a client does.
 */
import type { Client } from "@connectrpc/connect";
import { Code, ConnectError } from "@connectrpc/connect";
import { expect } from "vitest";
import type { GenerateResponse, SessionService } from "../../gen/leanedge/v1/session_pb.js";
import { FinishReason } from "../../gen/leanedge/v1/session_pb.js";
import { errorOf, scripted, words } from "./gateway-clients.js";
import type { Script } from "./scripted-engine.js";

/** What a session must hold. */
export interface KnownSession {
  /** What was asked and answered in each turn. */
  readonly turns: { readonly asked: string; readonly answered: string }[];
  readonly from: { readonly sessionId: string; readonly turn: number } | undefined;
}

/** A reader that stopped, and what it has read. */
interface StoppedReader {
  readonly sessionId: string;
  readonly known: KnownSession | undefined;
  readonly events: AsyncIterator<GenerateResponse>;
  readonly losses: number;
  /** The whole answer. */
  readonly full: string;
  readonly text: string;
}

/** What an actor works with. */
export interface SessionActorOptions {
  readonly client: Client<typeof SessionService>;
  /** Its sessions: nobody else touches them. */
  readonly ids: readonly string[];
  readonly random: () => number;
  /** How many objects were lost so far. */
  readonly losses: () => number;
}

/** Turns of a session until it is deleted: the scripted model's window ends. */
const turnsMax = 10;

const pause = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms));

/** See the head of this file. */
export class SessionActor {
  readonly #options: SessionActorOptions;
  readonly #client: Client<typeof SessionService>;
  readonly #known = new Map<string, KnownSession>();
  readonly #stopped: StoppedReader[] = [];
  #notes = 0;

  constructor(options: SessionActorOptions) {
    this.#options = options;
    this.#client = options.client;
  }

  /** Its sessions. */
  get known(): ReadonlyMap<string, KnownSession> {
    return this.#known;
  }

  /** Does one thing. */
  async step(): Promise<void> {
    const id = this.#one(this.#options.ids);
    const known = this.#known.get(id);
    if (known !== undefined && (known.turns.length >= turnsMax || this.#chance(0.08))) {
      await this.delete(id);
      return;
    }
    if (this.#chance(0.55)) {
      await this.#turn(id);
    } else if (this.#chance(0.25)) {
      await this.#create(id);
    } else if (this.#chance(0.35)) {
      await this.#fork(id);
    } else if (this.#chance(0.3)) {
      await this.#readOn();
    } else if (known !== undefined && known.turns.length > 0 && this.#chance(0.5)) {
      await this.#replay(id, known);
    } else {
      await this.check(id);
    }
  }

  /** Deletes a session, which may not be there. */
  async delete(id: string): Promise<void> {
    await this.#again(() => this.#client.deleteSession({ sessionId: id }));
    this.#known.delete(id);
    if (this.#chance(0.5)) await this.check(id);
  }

  /** Compares a session with what it must hold. */
  async check(id: string): Promise<void> {
    const known = this.#known.get(id);
    if (known === undefined) {
      expect(await this.#refusal(() => this.#client.getSession({ sessionId: id }))).toBe(
        Code.NotFound,
      );
      return;
    }
    const { session } = await this.#again(() => this.#client.getSession({ sessionId: id }));
    expect(session).toMatchObject({
      ...{ sessionId: id, lastTurn: known.turns.length, runningTurn: 0 },
      ...{ forkedFrom: known.from?.sessionId ?? "", messageCount: 2 * known.turns.length },
    });
    expect(await this.#transcript(id)).toEqual(
      known.turns.flatMap(({ asked, answered }) => [asked, answered]),
    );
  }

  /** Readers that stopped read on to the end. */
  async readAll(): Promise<void> {
    while (this.#stopped.length > 0) await this.#readOn();
  }

  async #create(id: string): Promise<void> {
    const title = `title of ${id}`;
    const create = () => this.#client.createSession({ sessionId: id, model: "scripted", title });
    if (this.#known.has(id)) {
      const other = () => this.#client.createSession({ sessionId: id, title: "another one" });
      expect(await this.#refusal(other)).toBe(Code.AlreadyExists);
    } else {
      expect((await this.#again(create)).session?.title).toBe(title);
      this.#known.set(id, { turns: [], from: undefined });
    }
  }

  async #fork(id: string): Promise<void> {
    const source = this.#known.get(id);
    const to = this.#one(this.#options.ids);
    if (source === undefined || source.turns.length === 0 || to === id) return;
    const turn = 1 + Math.floor(this.#options.random() * source.turns.length);
    const fork = () => this.#client.forkSession({ sessionId: id, turn, newSessionId: to });
    const target = this.#known.get(to);
    const from = { sessionId: id, turn };
    if (target === undefined) {
      await this.#again(fork);
      this.#known.set(to, { turns: source.turns.slice(0, turn), from });
    } else if (target.from?.sessionId === id && target.from.turn === turn) {
      await this.#again(fork);
    } else {
      expect(await this.#refusal(fork)).toBe(Code.AlreadyExists);
    }
    await this.check(to);
  }

  async #replay(id: string, { turns }: KnownSession): Promise<void> {
    const turn = 1 + Math.floor(this.#options.random() * turns.length);
    const seen = await this.#again(() =>
      this.#read(this.#client.generate({ sessionId: id, turn })),
    );
    expect(seen.text).toBe(turns[turn - 1]?.answered);
  }

  async #turn(id: string): Promise<void> {
    const losses = this.#options.losses();
    const known = this.#known.get(id);
    const turn = (known?.turns.length ?? 0) + 1;
    const tokens = 1 + Math.floor(this.#options.random() * 20);
    const delayMs = Math.floor(this.#options.random() * 3);
    const note = `${id} ${++this.#notes}`;
    const ask = (script: Script, more: { signal?: AbortSignal; detach?: boolean } = {}) => {
      const messages = [scripted(script, note)];
      const { signal, ...rest } = more;
      const options = signal === undefined ? {} : { signal };
      const request = { sessionId: id, model: "scripted", turn, messages, ...rest };
      return this.#client.generate(request, options);
    };
    const ends = (script: Script, answered: string): void => {
      const { turns } = known ?? this.#made(id);
      turns.push({ asked: scripted(script, note).text, answered });
    };
    const kind = this.#one(["whole", "whole", "failed", "cancelled", "left", "stopped", "refused"]);
    switch (kind) {
      case "whole":
      case "failed": {
        const script = { tokens, delayMs, ...(kind === "failed" ? { failAt: tokens >> 1 } : {}) };
        const seen = await this.#again(() => this.#read(ask(script)));
        expect(seen).toEqual({ text: words(tokens), finish: FinishReason.STOP });
        ends(script, seen.text);
        break;
      }
      case "cancelled": {
        const script = { tokens: 60, delayMs: 5 };
        const seen = await this.#again(() =>
          this.#read(ask(script), async () => {
            await this.#client.cancelTurn({ sessionId: id, turn });
          }),
        );
        expect(words(60).startsWith(seen.text)).toBe(true);
        ends(script, seen.text);
        break;
      }
      case "refused": {
        const script = { refuse: { code: Code.InvalidArgument, message: "no" } };
        expect(await this.#refusal(() => this.#read(ask(script)))).toBe(Code.InvalidArgument);
        // Where an object was lost between the refusal and the end of a session that was made for it, it stays.
        if (known === undefined) await this.#gone(id, this.#options.losses() > losses);
        break;
      }
      case "left":
      case "stopped": {
        const stopped = kind === "stopped";
        const script = stopped ? { tokens: 200 } : { tokens: 60, delayMs: 5 };
        const full = words(script.tokens);
        const leave = new AbortController();
        const detach = this.#chance(0.3);
        const events = ask(script, { signal: leave.signal, detach })[Symbol.asyncIterator]();
        let text = "";
        try {
          do {
            const next = await events.next();
            if (next.done === true) break;
            const { event } = next.value;
            if (event.case === "delta") text += event.value.text;
          } while (text === "" && !stopped);
        } catch (error) {
          if (this.#options.losses() === losses) throw error;
        }
        if (!stopped) leave.abort();
        const answered = await this.#settled(id, turn, !stopped && !detach);
        if (answered !== undefined) {
          expect(full.startsWith(answered)).toBe(true);
          ends(script, answered);
        }
        if (this.#options.losses() === losses) {
          expect(answered?.startsWith(text)).toBe(true);
          if (stopped || detach) expect(answered).toBe(full);
        }
        if (stopped) {
          const reader = { sessionId: id, known: this.#known.get(id), events, losses, full, text };
          this.#stopped.push(reader);
        }
        break;
      }
    }
  }

  /** Waits until a turn has ended; what was answered, undefined where it was lost before anything of it was stored. */
  async #settled(id: string, turn: number, cancels: boolean): Promise<string | undefined> {
    for (let round = 0; ; round++) {
      const code = await this.#again(() => this.#code(this.#client.getSession({ sessionId: id })));
      if (code === Code.NotFound) return undefined;
      const { session } = await this.#again(() => this.#client.getSession({ sessionId: id }));
      if (session?.lastTurn !== turn) return undefined;
      if (session.runningTurn === 0) break;
      // Where the object was lost nobody runs it any more.
      if ((cancels && round > 20) || round > 100) {
        await this.#again(() => this.#client.cancelTurn({ sessionId: id, turn }));
      }
      await pause(10);
    }
    return (await this.#transcript(id)).at(-1);
  }

  async #readOn(): Promise<void> {
    const reader = this.#stopped.shift();
    if (reader === undefined) return;
    let { text } = reader;
    let failed = false;
    try {
      for (;;) {
        const next = await reader.events.next();
        if (next.done === true) break;
        const { event } = next.value;
        if (event.case === "delta") text += event.value.text;
      }
    } catch {
      failed = true;
    }
    expect(reader.full.startsWith(text)).toBe(true);
    const same = reader.known !== undefined && this.#known.get(reader.sessionId) === reader.known;
    if (same && this.#options.losses() === reader.losses) {
      expect({ failed, text }).toEqual({ failed: false, text: reader.full });
    }
  }

  /** A session that was made for a turn which was refused goes, or stays empty where `mayStay`. */
  async #gone(id: string, mayStay: boolean): Promise<void> {
    const code = (): Promise<Code | undefined> =>
      this.#again(() => this.#code(this.#client.getSession({ sessionId: id })));
    if (mayStay) {
      await pause(50);
      await this.#again(() => this.#client.deleteSession({ sessionId: id }));
    }
    await expect.poll(code).toBe(Code.NotFound);
  }

  #made(id: string): KnownSession {
    const made: KnownSession = { turns: [], from: undefined };
    this.#known.set(id, made);
    return made;
  }

  async #transcript(id: string): Promise<string[]> {
    const pageSize = 1 + Math.floor(this.#options.random() * 8);
    const texts: string[] = [];
    let pageToken = "";
    do {
      const page = await this.#again(() =>
        this.#client.listMessages({ sessionId: id, pageSize, pageToken }),
      );
      texts.push(...page.messages.map(({ message }) => message?.text ?? ""));
      pageToken = page.nextPageToken;
    } while (pageToken !== "");
    return texts;
  }

  /** Reads an answer to its end. `first` is called when there is text. */
  async #read(
    events: AsyncIterable<GenerateResponse>,
    first: () => Promise<void> = () => Promise.resolve(),
  ): Promise<{ readonly text: string; readonly finish: FinishReason | undefined }> {
    let text = "";
    let finish: FinishReason | undefined;
    for await (const { event } of events) {
      if (event.case === "delta") {
        expect(Number(event.value.offset)).toBe(text.length);
        const begins = text === "";
        text += event.value.text;
        if (begins) await first();
      } else if (event.case === "finished") {
        finish = event.value.finishReason;
      }
    }
    expect(finish).toBeDefined();
    return { text, finish };
  }

  /** Calls until no object is lost under the call. */
  async #again<T>(work: () => Promise<T>): Promise<T> {
    for (;;) {
      const losses = this.#options.losses();
      try {
        return await work();
      } catch (error) {
        if (this.#options.losses() === losses) throw error;
        await pause(10);
      }
    }
  }

  async #refusal(work: () => Promise<unknown>): Promise<Code> {
    for (;;) {
      const losses = this.#options.losses();
      const { code } = await errorOf(work());
      if (this.#options.losses() === losses) return code;
      await pause(10);
    }
  }

  /** Code of the error that a call gives; undefined: none. Rejects where its object was lost. */
  async #code(call: Promise<unknown>): Promise<Code | undefined> {
    try {
      await call;
      return undefined;
    } catch (error) {
      if (!(error instanceof ConnectError) || error.code === Code.Unavailable) throw error;
      return error.code;
    }
  }

  #one<T>(values: readonly T[]): T {
    const value = values[Math.floor(this.#options.random() * values.length)];
    if (value === undefined) throw new Error("nothing to choose from");
    return value;
  }

  #chance(share: number): boolean {
    return this.#options.random() < share;
  }
}
