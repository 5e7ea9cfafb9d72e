import { spawnSync } from "node:child_process";
import { fileURLToPath } from "node:url";
import { afterEach, describe, expect, it, vi } from "vitest";
import { openEngine, tinyModel } from "../conformance/engine-bench.js";
import type { KernelExports } from "../conformance/kernel-module.js";
import { dtypeLayouts } from "../gguf/dtype.js";
import { EngineError } from "../status.js";
import { WasmInstance } from "./instance.js";
import { readEngineModule } from "./node-module.js";

const memoryBytes = 4 * 1024 * 1024;

async function open(threads: number): Promise<WasmInstance> {
  return WasmInstance.create(await readEngineModule("simd128-threads"), memoryBytes, threads);
}

afterEach(() => {
  vi.unstubAllGlobals();
});

describe("threads of an instance", () => {
  it("are refused where the module has none of its own", async () => {
    const create = WasmInstance.create(await readEngineModule("simd128"), memoryBytes, 2);
    await expect(create).rejects.toThrow(
      new EngineError(
        "invalidArgument",
        "2 threads, must be 1: the module is built for one thread",
        2,
        1,
      ),
    );
  });

  it("are refused beyond eight, and in fractions", async () => {
    for (const threads of [0, 9, 1.5, NaN]) {
      await expect(open(threads)).rejects.toThrow(
        `${threads} threads, must be 1 .. 8: an engine has no more`,
      );
    }
  });

  it("are refused in a Workers isolate, which has one", async () => {
    vi.stubGlobal("navigator", { userAgent: "Cloudflare-Workers" });
    await expect(open(2)).rejects.toThrow(
      "2 threads, must be 1: this environment starts no threads that share memory",
    );
    (await open(1)).close();
  });

  it("have stacks that count in the memory", async () => {
    const module = await readEngineModule("simd128-threads");
    const [one, three] = await Promise.all(
      [1, 3].map(async (threads) => {
        const engine = await openEngine(module, tinyModel, {
          memoryBytesMax: memoryBytes,
          threads,
        });
        return engine.stats();
      }),
    );
    const taken = (one?.cacheBytes ?? 0) - (three?.cacheBytes ?? 0);
    // Two stacks, and attention's scratch for two more threads.
    expect(taken).toBeGreaterThan(2 * 128 * 1024);
    expect(three?.memoryBytes).toBeLessThanOrEqual(memoryBytes);
  });

  it("whose stacks do not fit are refused", async () => {
    const create = WasmInstance.create(
      await readEngineModule("simd128-threads"),
      1024 * 1024 + 65536,
      8,
    );
    await expect(create).rejects.toMatchObject({ status: "outOfMemory" });
  });

  it("that trap make the engine lost instead of waiting for ever", async () => {
    const instance = await open(2);
    // What a helper does when it traps.
    instance.run((x) => {
      (x as unknown as { lew_thread_failed(): void }).lew_thread_failed();
    });
    const multiply = (): void => {
      instance.run((x) => {
        const kernels = x as unknown as KernelExports;
        const [data = 0, x0 = 0, y = 0] = [4096, 256, 256].map((bytes) => kernels.lek_alloc(bytes));
        kernels.lek_matmul(dtypeLayouts.F32.id, 64, 4, data, x0, x0, 1, y);
      });
    };
    expect(multiply).toThrow("the engine stopped: unreachable; all sequences are lost");
    expect(multiply).toThrow(EngineError);
  });

  it.each([
    { ending: "a closed engine", close: true },
    { ending: "an engine that was forgotten", close: false },
  ])("do not keep a process alive after $ending", { timeout: 30_000 }, ({ close }) => {
    const script = `
      import { WasmInstance } from ${JSON.stringify(new URL("./instance.ts", import.meta.url).href)};
      import { readEngineModule } from ${JSON.stringify(new URL("./node-module.ts", import.meta.url).href)};
      const module = await readEngineModule("simd128-threads");
      const instance = await WasmInstance.create(module, ${memoryBytes}, 3);
      // Long enough for the helpers to fall asleep.
      await new Promise((resolve) => setTimeout(resolve, 50));
      if (${close}) instance.close();
      console.log("done");
    `;
    const child = spawnSync(
      process.execPath,
      ["--import", "tsx", "--input-type=module", "--eval", script],
      {
        encoding: "utf8",
        timeout: 25_000,
        cwd: fileURLToPath(new URL("../../../", import.meta.url)),
      },
    );
    expect(child.stderr).toBe("");
    expect(child.stdout).toBe("done\n");
    expect(child.status).toBe(0);
  });
});
