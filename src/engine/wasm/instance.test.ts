import { describe, expect, it } from "vitest";
import { EngineError } from "../status.js";
import { abiVersion, stagingBytes } from "../boundary/abi.js";
import { WasmInstance } from "./instance.js";
import { wasmPageBytes, wasmPagesInitial } from "./memory-pages.js";
import { readEngineModule } from "./node-module.js";

const memoryBytes = wasmPagesInitial * wasmPageBytes;

async function open(): Promise<WasmInstance> {
  return WasmInstance.create(await readEngineModule("wasm"), memoryBytes + 12345);
}

describe("WasmInstance", () => {
  it("gives the module whole pages, at most what the host allows", async () => {
    const instance = await open();
    expect(instance.memoryBytesMax).toBe(memoryBytes);
    expect(instance.buffer.byteLength).toBe(memoryBytes);
    expect(instance.backend).toBe(2);
  });

  it("refuses a module that does not speak this boundary", async () => {
    const empty = new WebAssembly.Module(Uint8Array.of(0, 0x61, 0x73, 0x6d, 1, 0, 0, 0));
    await expect(WasmInstance.create(empty, memoryBytes)).rejects.toThrow(
      new EngineError(
        "invalidArgument",
        `module speaks version none of the engine's boundary, must be ${abiVersion}`,
        0,
        abiVersion,
      ),
    );
  });

  it("refuses memory that is no number of bytes", async () => {
    const module = await readEngineModule("wasm");
    for (const bytes of [NaN, -1, 0]) {
      await expect(WasmInstance.create(module, bytes)).rejects.toMatchObject({
        status: "outOfMemory",
      });
    }
  });

  it("turns a refusal into an EngineError with the module's message", async () => {
    const instance = await open();
    const call = (): unknown => instance.check((x) => x.le_sequence_create(0));
    expect(call).toThrow(EngineError);
    expect(call).toThrow(/the engine is in phase 0/);
  });

  it("takes a trap for the end: this call and every later one is deviceLost", async () => {
    const instance = await open();
    const trap = (): unknown =>
      instance.run(() => {
        throw new WebAssembly.RuntimeError("unreachable");
      });
    expect(trap).toThrow("the engine stopped: unreachable; all sequences are lost");
    const later = (): unknown => instance.check((x) => x.le_abi_version());
    expect(later).toThrow(EngineError);
    expect(later).toThrow("the engine stopped: unreachable");
  });

  it("lets other errors through as they are", async () => {
    const instance = await open();
    const fail = (): unknown =>
      instance.run(() => {
        throw new TypeError("not the module's");
      });
    expect(fail).toThrow(TypeError);
    expect(instance.check((x) => x.le_abi_version())).toBe(abiVersion);
  });

  it("has a staging buffer, and refuses views beyond it", async () => {
    const instance = await open();
    expect(instance.staging % 64).toBe(0);
    expect(instance.stagingView(stagingBytes).length).toBe(stagingBytes);
    expect(() => instance.stagingView(1, stagingBytes)).toThrow(
      "262145 bytes do not fit the staging buffer of 262144",
    );
  });
});
