/** Keeps the tenant's index at what the session says. What fails is tried again by the object's alarm. */
import { errorFields } from "../../log/log-line.js";
import { log } from "../log.js";
import { indexRetryMs, indexRetryMsMax } from "../limits.js";
import type { SessionStore } from "./session-store.js";
import { indexEntry } from "./session-views.js";
import type { TenantObject } from "./tenant-object.js";

/** See the head of this file. */
export class SessionIndexer {
  readonly #store: SessionStore;
  readonly #tenants: DurableObjectNamespace<TenantObject>;
  #pushing = false;
  #failures = 0;

  /** Does nothing yet. */
  constructor(store: SessionStore, tenants: DurableObjectNamespace<TenantObject>) {
    this.#store = store;
    this.#tenants = tenants;
  }

  /** Pause before the index should be tried again; undefined while it is up to date. */
  get retryMs(): number | undefined {
    const session = this.#store.session();
    const behind =
      this.#store.deletion() !== undefined ||
      (session !== undefined && session.indexVersion > session.indexedVersion);
    return behind
      ? Math.min(indexRetryMs * 2 ** Math.min(this.#failures, 16), indexRetryMsMax)
      : undefined;
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
