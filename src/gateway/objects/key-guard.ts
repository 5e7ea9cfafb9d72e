/**
 * Looks after the keys of a session's open streams and of its running turn: once a key is revoked or has expired, its streams
 * end with UNAUTHENTICATED, and then its turn stops. It looks every keyWatchMs while there is something to look after, and
 * stops at the first look that finds nothing: turns that follow each other have one timer in all.
 */
import type { ConnectError } from "@connectrpc/connect";
import { errorFields } from "../../log/log-line.js";
import { log } from "../log.js";
import { unauthenticated } from "../errors.js";
import { keyWatchMs } from "../limits.js";
import type { Clock } from "./clock.js";

/** What a guard works with. */
export interface KeyGuardOptions {
  /** Why a key opens nothing any more; undefined while it does. May reject. */
  readonly keyEnd: (keyId: string) => Promise<string | undefined>;
  /** Whether a key never ends, and need not be looked after. */
  readonly lasts: (keyId: string) => boolean;
  readonly clock: Clock;
  /** Keeps work alive that nobody waits for. */
  readonly background: (work: Promise<unknown>) => void;
}

interface Hold {
  readonly keyId: string;
  readonly end: (error: ConnectError) => void;
}

/** See the head of this file. */
export class KeyGuard {
  readonly #options: KeyGuardOptions;
  readonly #holds = new Set<Hold>();
  #watching = false;

  /** Does nothing yet. */
  constructor(options: KeyGuardOptions) {
    this.#options = options;
  }

  /**
   * Looks after something under a key, until what it returns is called. An empty id stands for no key.
   *
   * @param end called when the key has ended, in the same moment for all that is held under it
   */
  hold(keyId: string, end: (error: ConnectError) => void): () => void {
    if (keyId === "" || this.#options.lasts(keyId)) {
      return () => undefined;
    }
    const hold: Hold = { keyId, end };
    this.#holds.add(hold);
    if (!this.#watching) {
      this.#watching = true;
      this.#options.background(this.#watch());
    }
    return () => void this.#holds.delete(hold);
  }

  async #watch(): Promise<void> {
    for (;;) {
      await this.#options.clock.sleep(keyWatchMs);
      if (this.#holds.size === 0) {
        this.#watching = false;
        return;
      }
      for (const keyId of new Set([...this.#holds].map((hold) => hold.keyId))) {
        const ended = await this.#endOf(keyId);
        if (ended !== undefined) {
          this.#end(keyId, unauthenticated(ended));
        }
      }
    }
  }

  /** A keyring that cannot be reached ends nothing: the next look may tell. */
  async #endOf(keyId: string): Promise<string | undefined> {
    try {
      return await this.#options.keyEnd(keyId);
    } catch (error) {
      log("warn", "key.unknown", { key_id: keyId, ...errorFields(error) });
      return undefined;
    }
  }

  #end(keyId: string, error: ConnectError): void {
    for (const hold of [...this.#holds]) {
      if (hold.keyId === keyId) {
        hold.end(error);
      }
    }
  }
}
