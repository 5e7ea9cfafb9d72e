/**
 * The benchmark's own Worker: an engine at module scope and a request for each thing to time. Clocks
 * stand still while a Worker computes, so all times are taken by the process that asks.
 */
import { loadEngine } from "../../src/engine/load-engine.js";
import type { LoadedEngine } from "../../src/engine/load-engine.js";
import { memorySource } from "../../src/engine/gguf/index.js";
import { chooseModule } from "../../src/engine/wasm/variants.js";
import relaxed from "../../wasm/prebuilt/leanedge-relaxed.wasm";
import simd128 from "../../wasm/prebuilt/leanedge-simd128.wasm";
import readLoop from "../../.cache/bench/read-loop.wasm";
import { EngineRun } from "../support/engine-run.js";
import { touch } from "../support/read-loop.js";
import type { ReadLoop } from "../support/read-loop.js";

let loaded: LoadedEngine | undefined;
let run: EngineRun | undefined;
let reads: Promise<ReadLoop> | undefined;

async function load(request: Request): Promise<Response> {
  const source = memorySource(new Uint8Array(await request.arrayBuffer()));
  const number = (name: string): number => Number(request.headers.get(name));
  const module = chooseModule(simd128, relaxed);
  loaded = await loadEngine({
    source,
    module,
    memoryBytesMax: number("memory-bytes-max"),
    contextTokensMax: number("context-tokens"),
    sequencesMax: 1,
  });
  const { weightBytesPerRow } = loaded.engine.stats();
  return Response.json({ weightBytesPerRow, module: module === relaxed ? "relaxed" : "simd128" });
}

async function prefill(request: Request): Promise<Response> {
  if (loaded === undefined) throw new Error("no model has been loaded");
  run?.end();
  run = new EngineRun(loaded.engine);
  return Response.json([run.prefill((await request.json()) as number[])]);
}

async function decode(request: Request): Promise<Response> {
  if (run === undefined) throw new Error("no prompt has been read");
  return Response.json(run.decode((await request.json()) as number));
}

async function startReads(): Promise<ReadLoop> {
  const loop = (await WebAssembly.instantiate(readLoop)).exports as unknown as ReadLoop;
  touch(loop);
  return loop;
}

async function read(request: Request): Promise<Response> {
  reads ??= startReads();
  const { bytes, passes } = (await request.json()) as { bytes: number; passes: number };
  return Response.json((await reads).read(bytes, passes));
}

const handlers = new Map<string, (request: Request) => Response | Promise<Response>>([
  ["/load", load],
  ["/prefill", prefill],
  ["/decode", decode],
  ["/read", read],
  ["/nothing", () => Response.json({})],
]);

export default {
  async fetch(request: Request): Promise<Response> {
    const handler = handlers.get(new URL(request.url).pathname);
    if (handler === undefined) return new Response("not found", { status: 404 });
    return handler(request);
  },
};
