/**
 * EngineObject: one embedded engine as a worker like any other. It speaks leanedge.worker.v1 over
 * Connect to the gateway's other objects and is never reached from outside.
 *
 * State: none that matters. Sequences and their caches live in WASM memory and in this object's
 * memory; both are gone after an eviction, and the SessionObjects' snapshots and logs rebuild them.
 * There is no alarm and no storage.
 */
import { DurableObject } from "cloudflare:workers";
import { createConnectRouter, createContextValues } from "@connectrpc/connect";
import { createFetchHandler } from "@connectrpc/connect/protocol";
import { createModelCodec } from "../../worker/model-codec.js";
import { modelInfo } from "../../worker/model-info.js";
import { startWorker } from "../../worker/worker-service.js";
import { WorkerService } from "../../gen/leanedge/worker/v1/worker_pb.js";
import type { GatewayEnv } from "../bindings.js";
import { findModel, gatewayConfig } from "../config.js";
import type { ModelConfig } from "../config.js";
import type { LoadedEngine } from "../../engine/load-engine.js";
import { sequenceObjectId } from "./session-name.js";
import { forgetIfLost, registerWorker, relieveElsewhere, sharedEngine } from "./shared-engine.js";
import { objectOfId } from "../processes/objects.js";

/** Longest message in bytes: a whole log of a long session, 4 to 5 bytes an id, with room. */
const requestBytesMax = 8 << 20;

type Handler = (request: Request) => Promise<Response>;

/** An engine at work. */
interface Running {
  readonly model: ModelConfig;
  readonly loaded: LoadedEngine;
  /** By path. */
  readonly handlers: Map<string, Handler>;
}

/** See the head of this file. */
export class EngineObject extends DurableObject<GatewayEnv> {
  #running: Running | undefined;
  #opening: Promise<Running> | undefined;

  override async fetch(request: Request): Promise<Response> {
    let running = this.#running ?? (await this.#open());
    if (forgetIfLost(running.model, running.loaded)) running = await this.#open();
    const handler = running.handlers.get(new URL(request.url).pathname);
    return handler === undefined ? new Response("no such call", { status: 404 }) : handler(request);
  }

  async #open(): Promise<Running> {
    this.#opening ??= this.#load();
    try {
      this.#running = await this.#opening;
      return this.#running;
    } finally {
      this.#opening = undefined;
    }
  }

  async #load(): Promise<Running> {
    const name = this.ctx.id.name ?? "";
    const model = name.slice(0, name.lastIndexOf("/"));
    const config = gatewayConfig(this.env);
    const entry = findModel(config, model);
    if (entry === undefined || this.env.ASSETS === undefined) {
      throw new Error(`engine "${name}" serves no model of this gateway's configuration`);
    }
    const loaded = await sharedEngine(this.env.ASSETS, entry, config.engineMemoryBytesMax);
    const worker = startWorker({
      name: `engine:${name}`,
      model,
      engine: loaded.engine,
      codec: createModelCodec(loaded),
      geometry: loaded.modelFile.config,
      plans: loaded.plans,
      modelFingerprint: loaded.fingerprint,
      info: modelInfo(loaded),
      relieve: () => relieveElsewhere(loaded, name),
      relieveTable: () => relieveElsewhere(loaded, name, "releaseOldestIdle"),
      keepCache: (sequenceId) => this.#keepCache(sequenceId),
      // A timer, not a resolved promise: I/O of other requests must get its turn between steps.
      yieldToHost: () => new Promise((resolve) => setTimeout(resolve, 0)),
      // Stands still on the edge while an engine computes; timings are then 0, as documented.
      nowUs: () => performance.now() * 1000,
    });
    registerWorker(loaded, name, worker);
    const router = createConnectRouter({
      grpc: false,
      grpcWeb: false,
      connect: true,
      readMaxBytes: requestBytesMax,
    });
    router.service(WorkerService, worker.service);
    const handlers = new Map(
      router.handlers.map((handler) => [
        handler.requestPath,
        createFetchHandler((request) =>
          handler({ ...request, contextValues: createContextValues() }),
        ),
      ]),
    );
    return { model: entry, loaded, handlers };
  }

  /** Lets the session of an idle sequence save its cache, which must go for others. */
  async #keepCache(sequenceId: string): Promise<void> {
    const session = objectOfId(this.env, "SESSION", sequenceObjectId(sequenceId));
    await session.saveCache(sequenceId);
  }
}
