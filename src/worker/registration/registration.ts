/**
 * Membership of a worker in a gateway's pool: registers, sends heartbeats with its load, and leaves in order. Runs beside
 * the service and never stops it: a gateway that cannot be reached costs the worker new sessions, nothing else.
 */
import { randomUUID } from "node:crypto";
import { Code, ConnectError, createClient, type Client, type Transport } from "@connectrpc/connect";
import {
  PoolService,
  WorkerState,
  type WorkerLoad,
  type WorkerModel,
} from "../../gen/leanedge/pool/v1/pool_pb.js";
import type { GetStatusResponse } from "../../gen/leanedge/worker/v1/worker_pb.js";
import { callMsMax, heartbeatMsMax, heartbeatMsMin, retryMs, retryMsMax } from "./limits.js";
import { registeredModels, TokenRate, workerLoad } from "./worker-load.js";

/** What a registration needs. */
export interface RegistrationOptions {
  /** Carries calls to the gateway, token included. */
  readonly transport: Transport;
  /** How the gateway is called in messages. */
  readonly gateway: string;
  /** Name of the pool; empty: the gateway's first one. */
  readonly pool: string;
  /** Name of the worker. */
  readonly name: string;
  /** Where gateways reach it. */
  readonly address: string;
  /** What the worker says of itself; rejects while its engine restarts. */
  readonly status: () => Promise<GetStatusResponse>;
  /** One line for those who run it. */
  readonly log: (line: string) => void;
}

/** See the head of this file. */
export class Registration {
  readonly #options: RegistrationOptions;
  readonly #client: Client<typeof PoolService>;
  readonly #incarnation = randomUUID();
  readonly #startMs = Date.now();
  readonly #rate = new TokenRate();
  readonly #stop = new AbortController();
  readonly #running: Promise<void>;
  #state: WorkerState | undefined;
  /** Ends the pause before the next call. */
  #endPause: () => void = () => undefined;
  /** There is something to say: no pause before the next call. */
  #woken = false;
  #shutsDown = false;
  #lastFault = "";

  /** Starts at once. */
  constructor(options: RegistrationOptions) {
    this.#options = options;
    this.#client = createClient(PoolService, options.transport);
    this.#running = this.#run();
  }

  /** Tells the pool at once that the worker shuts down: its sessions move. */
  shutDown(): void {
    this.#shutsDown = true;
    this.#wake();
  }

  /** Leaves the pool. Takes at most callMsMax; never rejects. */
  async close(): Promise<void> {
    this.#stop.abort();
    this.#wake();
    await this.#running;
    if (this.#state === undefined) {
      return;
    }
    try {
      await this.#client.deregister(this.#member(), { timeoutMs: callMsMax });
    } catch (error) {
      this.#fault(error);
    }
  }

  async #run(): Promise<void> {
    let failures = 0;
    while (!this.#closed()) {
      let pauseMs: number;
      try {
        pauseMs = await this.#call();
        this.#lastFault = "";
        failures = 0;
      } catch (error) {
        if (this.#closed()) {
          return;
        }
        this.#fault(error);
        const code = ConnectError.from(error).code;
        if (code === Code.FailedPrecondition) {
          this.#state = undefined;
          return;
        }
        if (code === Code.NotFound && this.#state !== undefined) {
          // The pool forgot it.
          this.#state = undefined;
          pauseMs = 0;
        } else {
          pauseMs = Math.min(retryMs * 2 ** failures++, retryMsMax);
        }
      }
      await this.#pause(pauseMs);
    }
  }

  /** Registers, or sends a heartbeat; returns the time to the next one. */
  async #call(): Promise<number> {
    const status = await this.#options.status();
    const options = { signal: this.#stop.signal, timeoutMs: callMsMax };
    const load: WorkerLoad = workerLoad(status, this.#rate.next(status), this.#shutsDown);
    if (this.#state === undefined) {
      const models: WorkerModel[] = registeredModels(status);
      const { address } = this.#options;
      const answer = await this.#client.register(
        { ...this.#member(), address, models, load, startMs: BigInt(this.#startMs) },
        options,
      );
      this.#options.log(`registered with pool "${answer.pool}" of ${this.#options.gateway}`);
      this.#entered(answer.state);
      return heartbeat(answer.heartbeatMs);
    }
    const answer = await this.#client.heartbeat({ ...this.#member(), load }, options);
    this.#entered(answer.state);
    return heartbeat(answer.heartbeatMs);
  }

  #closed(): boolean {
    return this.#stop.signal.aborted;
  }

  #member(): { pool: string; name: string; incarnation: string } {
    const { name, pool } = this.#options;
    return { pool, name, incarnation: this.#incarnation };
  }

  #entered(state: WorkerState): void {
    if (state !== this.#state) {
      const name = WorkerState[state].toLowerCase().replace("_", " ");
      this.#options.log(`${name} in the pool of ${this.#options.gateway}`);
    }
    this.#state = state;
  }

  /** Says what is wrong, once. */
  #fault(error: unknown): void {
    const { message } = ConnectError.from(error);
    if (message !== this.#lastFault) {
      this.#lastFault = message;
      this.#options.log(`the pool of ${this.#options.gateway}: ${message}`);
    }
  }

  #wake(): void {
    this.#woken = true;
    this.#endPause();
  }

  async #pause(ms: number): Promise<void> {
    if (!this.#woken && !this.#closed()) {
      await new Promise<void>((resolve) => {
        const timer = setTimeout(resolve, ms);
        this.#endPause = () => {
          clearTimeout(timer);
          resolve();
        };
      });
    }
    this.#woken = false;
  }
}

function heartbeat(ms: number): number {
  return Math.min(Math.max(ms, heartbeatMsMin), heartbeatMsMax);
}
