/** Keeps the tenant's index at what the session says. What fails is tried again by the object's alarm. */
import { errorFields } from "../../log/log-line.js";
import { log } from "../log.js";
import { indexLostMs, indexPushMs, indexRetryMs, indexRetryMsMax } from "../limits.js";
import type { Clock } from "./clock.js";
import { isolateBatches } from "./index-batches.js";
import type { IndexAnswer } from "./index-batches.js";
import type { SessionStore } from "./session-store.js";
import { indexEntry } from "./session-views.js";
import type { TenantObject } from "./tenant-object.js";

/** See the head of this file. */
export class SessionIndexer {
  readonly #store: SessionStore;
  readonly #tenants: (tenant: string) => DurableObjectStub<TenantObject>;
  readonly #clock: Pick<Clock, "nowMs" | "sleep">;
  #pushing = false;
  #failures = 0;
  /** What the index last answered was a version that ours had to be raised above. */
  #outbids = false;

  /** Does nothing yet. `tenants` finds a tenant's index. */
  constructor(
    store: SessionStore,
    tenants: (tenant: string) => DurableObjectStub<TenantObject>,
    clock: Pick<Clock, "nowMs" | "sleep">,
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
    // A push that is under way, or about to be, says itself if it fails.
    return this.#failures === 0
      ? indexLostMs
      : Math.min(indexRetryMs * 2 ** Math.min(this.#failures, 16), indexRetryMsMax);
  }

  /**
   * Brings the index up to date within indexPushMs, with what other sessions tell it (index-batches.ts), and at once where a
   * session was made that it does not know of yet. Never rejects. Resolves to whether it is then, or will be if all goes well;
   * undefined where another session sees to it.
   */
  pushSoon(): Promise<boolean> | undefined {
    const session = this.#store.session();
    if (session === undefined || (session.indexedVersion === 0 && !session.implicit)) {
      return this.push();
    }
    if (!this.#store.durable) {
      return this.#share(false);
    }
    // A turn's end is durable when it is told, and mostly another session has begun to gather.
    return this.#mustCarry() ? this.#share(true) : undefined;
  }

  /** Brings the index up to date. Never rejects. Resolves to whether it is now. */
  async push(): Promise<boolean> {
    if (this.#pushing) {
      return true;
    }
    this.#pushing = true;
    try {
      this.#learn();
      while (await this.#pushOnce()) {
        this.#failures = 0;
      }
      return true;
    } catch (error) {
      this.#failed(error);
      return false;
    } finally {
      this.#pushing = false;
    }
  }

  /** Adds what there is to tell to what others have; true where this one has to carry it. */
  #mustCarry(): boolean {
    const session = this.#store.session();
    return (
      session !== undefined &&
      session.indexVersion > session.indexedVersion &&
      isolateBatches.add(session.tenant, indexEntry(this.#store, session), this.#clock.nowMs())
    );
  }

  /** Tells the index with others; true where nobody failed. `added`: they have what there is to tell, and this one carries it. */
  async #share(added: boolean): Promise<boolean> {
    try {
      if (!added) {
        // What others tell the index for this session must be durable.
        await this.#store.sync();
      }
      return added || this.#mustCarry() ? await this.#carry() : true;
    } catch (error) {
      this.#failed(error);
      return false;
    }
  }

  /** Carries what all sessions of the tenant have to tell. */
  async #carry(): Promise<boolean> {
    const tenant = this.#store.session()?.tenant ?? "";
    await this.#clock.sleep(indexPushMs);
    const entries = isolateBatches.take(tenant);
    if (entries.length > 0) {
      const held = await this.#tenants(tenant).putAll(entries);
      for (const [index, { sessionId, version }] of entries.entries()) {
        isolateBatches.answered(tenant, sessionId, { version, held: held[index] ?? 0 });
      }
      this.#failures = 0;
    }
    this.#learn();
    // A version that had to be raised is not told yet.
    return this.#outbids ? this.push() : true;
  }

  /** Notes what the index answered to an entry that was told with others. */
  #learn(): void {
    const session = this.#store.session();
    const answer =
      session === undefined ? undefined : isolateBatches.answer(session.tenant, session.sessionId);
    if (answer !== undefined) {
      this.#note(answer);
    }
  }

  /** @param held version that the index holds since it was told `version` */
  #note({ version, held }: IndexAnswer): void {
    this.#outbids = held > version && held >= (this.#store.session()?.indexVersion ?? 0);
    if (this.#outbids) {
      // The index remembers a later life of this id, from before a clock went back: outbid it.
      this.#store.raiseIndexVersion(held + 1);
    } else {
      this.#store.setIndexedVersion(version);
    }
  }

  #failed(error: unknown): void {
    this.#failures++;
    log("warn", "index.not_updated", errorFields(error));
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
      const held = await this.#tenants(session.tenant).put(entry);
      this.#note({ version: entry.version, held });
      return true;
    }
    if (deletion !== undefined) {
      if (session === undefined) {
        await this.#tenants(deletion.tenant).remove(deletion.sessionId, deletion.version);
      }
      store.forgetDeletion();
      return true;
    }
    return false;
  }
}
