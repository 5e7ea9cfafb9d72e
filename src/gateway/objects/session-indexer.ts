/** Keeps the tenant's index at what the session says. What fails is tried again by the object's alarm. */
import { errorFields } from "../../log/log-line.js";
import { log } from "../log.js";
import { indexPushMs, indexRetryMs, indexRetryMsMax, turnWatchMs } from "../limits.js";
import type { Clock } from "./clock.js";
import type { SessionStore } from "./session-store.js";
import { indexEntry } from "./session-views.js";
import type { TenantObject } from "./tenant-object.js";

/** See the head of this file. */
export class SessionIndexer {
  readonly #store: SessionStore;
  readonly #tenants: DurableObjectNamespace<TenantObject>;
  readonly #clock: Pick<Clock, "sleep">;
  #soon: Promise<boolean> | undefined;
  #pushing = false;
  #failures = 0;

  /** Does nothing yet. */
  constructor(
    store: SessionStore,
    tenants: DurableObjectNamespace<TenantObject>,
    clock: Pick<Clock, "sleep">,
  ) {
    this.#store = store;
    this.#tenants = tenants;
    this.#clock = clock;
  }

  /** Pause before the index should be tried again; undefined while it is up to date. */
  get retryMs(): number | undefined {
    const session = this.#store.session();
    const behind =
      this.#store.deletion() !== undefined ||
      (session !== undefined && session.indexVersion > session.indexedVersion);
    if (!behind) {
      return undefined;
    }
    // A push that is under way, or about to be, says itself if it fails; after an eviction the alarm of a turn is in time.
    return this.#failures === 0
      ? turnWatchMs
      : Math.min(indexRetryMs * 2 ** Math.min(this.#failures, 16), indexRetryMsMax);
  }

  /**
   * Brings the index up to date within indexPushMs, and at once where it does not know of the session yet. Never rejects.
   * Resolves to whether it is then.
   */
  pushSoon(): Promise<boolean> {
    if (this.#store.session()?.indexedVersion === 0) {
      return this.push();
    }
    this.#soon ??= this.#clock.sleep(indexPushMs).then(() => {
      this.#soon = undefined;
      return this.push();
    });
    return this.#soon;
  }

  /** Brings the index up to date. Never rejects. Resolves to whether it is now. */
  async push(): Promise<boolean> {
    if (this.#pushing) {
      return true;
    }
    this.#pushing = true;
    try {
      while (await this.#pushOnce()) {
        this.#failures = 0;
      }
      return true;
    } catch (error) {
      this.#failures++;
      log("warn", "index.not_updated", errorFields(error));
      return false;
    } finally {
      this.#pushing = false;
    }
  }

  /** Sends one change, if there is one. */
  async #pushOnce(): Promise<boolean> {
    const store = this.#store;
    // What the index is told must be stored.
    store.commit();
    const deletion = store.deletion();
    const session = store.session();
    if (session !== undefined && session.indexVersion > session.indexedVersion) {
      const entry = indexEntry(store, session);
      const held = await this.#tenants.getByName(session.tenant).put(entry);
      if (held > entry.version) {
        // The index remembers a later life of this id, from before a clock went back: outbid it.
        store.raiseIndexVersion(held + 1);
      } else {
        store.setIndexedVersion(entry.version);
      }
      return true;
    }
    if (deletion !== undefined) {
      if (session === undefined) {
        await this.#tenants.getByName(deletion.tenant).remove(deletion.sessionId, deletion.version);
      }
      store.forgetDeletion();
      return true;
    }
    return false;
  }
}
