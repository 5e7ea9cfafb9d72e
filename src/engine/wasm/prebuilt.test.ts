import { createHash } from "node:crypto";
import { readFile } from "node:fs/promises";
import { describe, expect, it } from "vitest";
import { engineModuleUrl, moduleNames, readEngineModule } from "./node-module.js";
import { hasRelaxedSimd } from "./variants.js";

/** Ceiling of a module: a Worker's whole bundle has 3 MB on the smallest plan. */
const moduleBytesMax = 400 * 1024;

const root = new URL("../../../", import.meta.url);

interface Build {
  readonly modules: Record<string, { readonly bytes: number; readonly sha256: string }>;
}

/** What this process can compile: Node 20 has no relaxed SIMD. */
const compilable = moduleNames.filter((name) => !name.startsWith("relaxed") || hasRelaxedSimd());

async function exportList(file: string): Promise<string[]> {
  return (await readFile(new URL(`wasm/${file}`, root), "utf8")).trim().split("\n");
}

describe.each(compilable)("the prebuilt module %s", (name) => {
  const url = engineModuleUrl(name);

  it("is the one that BUILD.json tells of, and small enough", async () => {
    const bytes = await readFile(url);
    const text = await readFile(new URL("wasm/prebuilt/BUILD.json", root), "utf8");
    const build = JSON.parse(text) as Build;
    expect(build.modules[url.pathname.slice(url.pathname.lastIndexOf("/") + 1)]).toEqual({
      bytes: bytes.length,
      sha256: createHash("sha256").update(bytes).digest("hex"),
    });
    expect(bytes.length).toBeLessThan(moduleBytesMax);
  });

  it("imports its memory and nothing else", async () => {
    const module = await readEngineModule(name);
    expect(WebAssembly.Module.imports(module)).toEqual([
      { module: "env", name: "memory", kind: "memory" },
    ]);
  });

  it("exports what its lists of exports say", async () => {
    const module = await readEngineModule(name);
    const lists = [
      "exports.txt",
      ...(name.startsWith("relaxed") ? ["exports-relaxed.txt"] : []),
      ...(name.endsWith("-threads") ? ["exports-threads.txt"] : []),
    ];
    const listed = (await Promise.all(lists.map(exportList))).flat();
    const exported = WebAssembly.Module.exports(module).map((entry) => entry.name);
    expect(exported.sort()).toEqual(listed.sort());
  });

  it("exports every function of engine.h", async () => {
    const header = await readFile(new URL("engine/include/leanedge/engine.h", root), "utf8");
    const declared = [...header.matchAll(/^\w[\w:* ]*[ *](le_\w+)\(/gm)].map(([, name]) => name);
    const module = await readEngineModule(name);
    const exported = WebAssembly.Module.exports(module)
      .map((entry) => entry.name)
      .filter((entry) => entry.startsWith("le_"));
    expect(exported.sort()).toEqual(declared.sort());
  });

  it("names no folder of the machine that built it", async () => {
    const text = (await readFile(url)).toString("latin1");
    expect(/\/(home|root|tmp|work|usr|build)\//.exec(text)?.[0]).toBeUndefined();
  });
});
