/**
 * The sessions of an object that many share, as where one machine serves all of them: they share its database, so that a session that
 * begins makes no file and waits for the sync of few pages instead of eight, and its statements are compiled once for all. Each
 * has rows under a number of its own (session-key.ts), and memory for as long as something of it is under way and
 * sharedIdleMs longer; the object's one alarm is for the one that is due first (occupants.ts).
 *
 * Survives eviction: what each session does, and when each is due.
 */
import { errorFields } from "../../log/log-line.js";
import type { GatewayEnv } from "../bindings.js";
import {
  sharedAlarmMs,
  sharedDueMax,
  sharedIdleMax,
  sharedIdleMs,
  turnWatchMs,
} from "../limits.js";
import { log } from "../log.js";
import { CommitGroup } from "./commit-group.js";
import { ObjectClock } from "./object-clock.js";
import { Occupants } from "./occupants.js";
import { Session } from "./session.js";
import type { KeptSessions } from "./session-object.js";
import { sequenceNumber, sessionObjectName } from "./session-name.js";
import { SessionTables } from "./session-tables.js";
import { Stop } from "./stop.js";
import { turnsRunning } from "./text-interval.js";

/** A session that memory holds. */
interface Resident {
  readonly name: string;
  readonly number: number;
  readonly session: Session;
  /** Calls, alarms and background work of it that are under way. */
  under: number;
  /** When something of it was last under way. */
  usedMs: number;
  /** When its alarm comes; 0: never. */
  dueMs: number;
  /** Its alarm is under way. */
  alarming: boolean;
  /** How many times it said when its alarm is to come. */
  said: number;
}

/** See the head of this file. */
export class SharedSessions implements KeptSessions {
  readonly #ctx: DurableObjectState;
  readonly #env: GatewayEnv;
  readonly #clock = new ObjectClock();
  readonly #tables: SessionTables;
  readonly #occupants: Occupants;
  readonly #commits: CommitGroup;
  /** By name; the one that was used last is last. */
  readonly #residents = new Map<string, Resident>();
  /** When the object's alarm comes; Infinity: it is not known to come. */
  #alarmMs = Infinity;

  /** Looks at nothing yet. */
  constructor(ctx: DurableObjectState, env: GatewayEnv) {
    this.#ctx = ctx;
    this.#env = env;
    this.#tables = new SessionTables(ctx.storage);
    this.#occupants = new Occupants(ctx.storage.sql);
    this.#commits = new CommitGroup({
      ...{ storage: ctx.storage, clock: this.#clock },
      turns: () => turnsRunning(this.#clock.nowMs()),
    });
  }

  of<T>(tenant: string, sessionId: string, work: (session: Session) => Promise<T>): Promise<T> {
    const resident = this.#resident(sessionObjectName(tenant, sessionId));
    return this.#during(resident, () => work(resident.session));
  }

  async ofSequence(sequenceId: string, work: (session: Session) => Promise<void>): Promise<void> {
    const occupant = this.#occupants.numbered(sequenceNumber(sequenceId));
    if (occupant !== undefined) {
      const resident = this.#resident(occupant.name);
      await this.#during(resident, () => work(resident.session));
    }
  }

  /**
   * Calls the sessions that are due, and waits for sharedAlarmMs at most: one that hangs holds no other up. Each is due again in a
   * while unless it says otherwise, in case this object is lost meanwhile.
   */
  async alarm(): Promise<void> {
    this.#alarmMs = Infinity;
    const nowMs = this.#clock.nowMs();
    const due = this.#occupants.due(nowMs, sharedDueMax);
    this.#ctx.storage.transactionSync(() => {
      for (const { number } of due) {
        this.#occupants.setDue(number, nowMs + turnWatchMs);
      }
    });
    // Each is under way before the next one comes into memory, which may forget those that are not.
    const all = Promise.all(due.map(({ name }) => this.#callAlarm(this.#resident(name))));
    this.#ctx.waitUntil(all);
    const over = new Stop();
    await Promise.race([all, this.#clock.sleep(sharedAlarmMs, over)]);
    over.stop();
    this.#forgetIdle();
    const nextMs = this.#occupants.nextDueMs();
    if (nextMs !== undefined) {
      this.#arm(nextMs);
    }
  }

  async #callAlarm(resident: Resident): Promise<void> {
    if (resident.alarming) {
      return;
    }
    resident.alarming = true;
    const { said } = resident;
    try {
      await this.#during(resident, () => resident.session.alarm());
      // One that is gone is due until its number is free: a reader that stopped may hold it.
      if (resident.said === said && !resident.session.gone) {
        this.#occupants.setDue(resident.number, 0);
      }
    } catch (error) {
      // It is due again as it is.
      log("error", "session.alarm_failed", errorFields(error, "stack"));
    } finally {
      resident.alarming = false;
    }
  }

  /** Works with a session, which stays in memory meanwhile. */
  async #during<T>(resident: Resident, work: () => Promise<T>): Promise<T> {
    resident.under++;
    try {
      return await work();
    } finally {
      this.#over(resident);
    }
  }

  #over(resident: Resident): void {
    resident.under--;
    resident.usedMs = this.#clock.nowMs();
    if (resident.under === 0 && resident.session.idle && resident.session.gone) {
      this.#forget(resident);
    }
  }

  #resident(name: string): Resident {
    const known = this.#residents.get(name);
    if (known !== undefined) {
      known.usedMs = this.#clock.nowMs();
      // To its place among those that are used.
      this.#residents.delete(name);
      this.#residents.set(name, known);
      return known;
    }
    this.#forgetIdle();
    const resident = this.#open(name);
    this.#residents.set(name, resident);
    return resident;
  }

  #open(name: string): Resident {
    const { storage } = this.#ctx;
    const occupant = this.#occupants.named(name);
    const number = occupant?.number ?? this.#occupants.freeNumber();
    let stored: boolean | undefined = occupant !== undefined;
    const isStored = (): boolean => {
      stored ??= this.#occupants.numbered(number) !== undefined;
      return stored;
    };
    const session = new Session(this.#env, {
      ...{ storage, tables: this.#tables, commits: this.#commits, clock: this.#clock },
      key: {
        number,
        taken: () => {
          if (!isStored()) {
            this.#occupants.put({ number, name, dueMs: resident.dueMs });
            stored = true;
          }
        },
        undone: () => {
          this.#occupants.forget();
          stored = undefined;
        },
      },
      sequencePrefix: `${this.#ctx.id.toString()}.${number}`,
      setAlarm: (dueMs) => {
        resident.said++;
        resident.dueMs = dueMs;
        if (isStored()) {
          this.#occupants.setDue(number, dueMs);
        }
        this.#arm(dueMs);
      },
      waitUntil: (work) => {
        resident.under++;
        this.#ctx.waitUntil(
          work.finally(() => {
            this.#over(resident);
          }),
        );
      },
    });
    const resident: Resident = {
      ...{ name, number, session, under: 0, alarming: false, said: 0 },
      ...{ usedMs: this.#clock.nowMs(), dueMs: occupant?.dueMs ?? 0 },
    };
    return resident;
  }

  /** Has the object's alarm come by then. */
  #arm(dueMs: number): void {
    if (dueMs < this.#alarmMs) {
      // One that is not known to come may be set all the same, for a session that was due when this object began.
      const others = this.#alarmMs === Infinity ? this.#occupants.nextDueMs() : undefined;
      this.#alarmMs = Math.min(dueMs, others ?? Infinity);
      // Where it is not stored the object itself is lost.
      this.#ctx.waitUntil(this.#ctx.storage.setAlarm(this.#alarmMs));
    }
  }

  /** Forgets sessions that nothing is under way of, those that were used least recently first. */
  #forgetIdle(): void {
    const beforeMs = this.#clock.nowMs() - sharedIdleMs;
    for (const resident of this.#residents.values()) {
      if (resident.usedMs > beforeMs && this.#residents.size <= sharedIdleMax) {
        return;
      }
      if (resident.under === 0 && resident.session.idle) {
        this.#forget(resident);
      }
    }
  }

  /**
   * Forgets a session, and frees its number where nothing is stored under it. Never throws: it would fail the call that comes
   * upon it, be it another session's. What storage did not take is done by an alarm.
   */
  #forget({ name, number, session }: Resident): void {
    this.#residents.delete(name);
    try {
      if (session.gone && this.#occupants.numbered(number) !== undefined) {
        this.#ctx.storage.transactionSync(() => {
          // Whoever gets the number finds nothing under it.
          session.erase();
          this.#occupants.remove(number);
        });
      }
    } catch (error) {
      log("error", "session.not_erased", errorFields(error, "stack"));
    }
  }
}
