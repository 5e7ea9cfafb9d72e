/** The static assets of model `tiny`: shards, manifest and a plan, as `leanedge build` would lay them out. */
import { makeShardManifest, memorySource } from "../../engine/gguf/index.js";

const folder = "/models/tiny";
const shardName = "tiny-0000.bin";

/** A plan with zones so small that short sessions have pages, and an archive that differs from them. */
export const tinyPlan = {
  name: "lean",
  model: "tiny",
  layers: 2,
  kv_heads: 3,
  head_dim: 16,
  sink: 4,
  recent: 32,
  storage: { k: "int8", v: "int4" },
  kept: Array.from({ length: 2 }, () =>
    Array.from({ length: 3 }, () => Array.from({ length: 16 }, (_, channel) => channel)),
  ),
};

/** Serves them. @param model the model's file in base64 */
export async function tinyAssets(model: string): Promise<Pick<Fetcher, "fetch">> {
  const bytes = Uint8Array.from(atob(model), (character) => character.charCodeAt(0));
  const manifest = await makeShardManifest(memorySource(bytes), () => shardName);
  return {
    fetch(input) {
      const { pathname } = new URL(input instanceof Request ? input.url : input);
      switch (pathname) {
        case `${folder}/manifest.json`:
          return Promise.resolve(Response.json(manifest));
        case `${folder}/${shardName}`:
          return Promise.resolve(new Response(bytes));
        case `${folder}/plans/lean.json`:
          return Promise.resolve(Response.json(tinyPlan));
        default:
          return Promise.resolve(new Response("no such asset", { status: 404 }));
      }
    },
  };
}
