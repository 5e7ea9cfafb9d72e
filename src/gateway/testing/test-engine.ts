/** EngineObject of the gateway under test: the scripted worker, but for model `tiny`, which has the real one. */
import type { GatewayEnv } from "../bindings.js";
import { EngineObject } from "../objects/engine-object.js";
import { ScriptedEngine } from "./scripted-engine.js";
import { tinyAssets } from "./tiny-assets.js";

/** See the head of this file. */
export class TestEngine extends ScriptedEngine {
  #real: EngineObject | undefined;

  override async fetch(request: Request): Promise<Response> {
    if (this.ctx.id.name?.startsWith("tiny/") !== true) {
      return super.fetch(request);
    }
    if (this.#real === undefined) {
      const env = this.env as GatewayEnv & { readonly TINY_MODEL: string };
      const assets = (await tinyAssets(env.TINY_MODEL)) as Fetcher;
      this.#real ??= new EngineObject(this.ctx, { ...env, ASSETS: assets });
    }
    return this.#real.fetch(request);
  }
}
