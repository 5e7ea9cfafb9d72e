/** The prebuilt WASM modules write the golden pages: what one backend saved, another one reads. */
import { describe, expect, it } from "vitest";
import { planBlock } from "../plan/binary.js";
import { pageSlots } from "../plan/plan.js";
import { wasmPagesInitial, wasmPagesMax } from "../wasm/memory-pages.js";
import { readEngineModule } from "../wasm/node-module.js";
import { pageLayout } from "./layout.js";
import { goldenCases, goldenPage, goldenRows, type GoldenCase } from "./testing/golden.js";

/** What the modules export for the conformance of kernels, as far as it is used here. */
interface PageExports {
  lek_alloc(bytes: number): number;
  lek_reset(): void;
  lek_page_flush(
    plan: number,
    layer: number,
    k: number,
    v: number,
    stride: number,
    row: number,
    page: number,
  ): void;
}

/** A ring of rows whose page begins near its end, so that its rows wrap. */
const ring = { rows: 40, first: 25 };

/** Rows of all heads of a layer in a ring: (kvHeads, ring.rows, headDim). */
function ringOf(golden: GoldenCase, layer: number, part: "k" | "v"): Uint16Array {
  const { kvHeads, headDim } = golden.plan;
  // What a kernel must not read is NaN.
  const values = new Uint16Array(kvHeads * ring.rows * headDim).fill(0x7e00);
  for (let head = 0; head < kvHeads; head++) {
    const rows = goldenRows(golden, layer, head)[part];
    for (let slot = 0; slot < pageSlots; slot++) {
      const row = (ring.first + slot) % ring.rows;
      values.set(
        rows.subarray(slot * headDim, (slot + 1) * headDim),
        (head * ring.rows + row) * headDim,
      );
    }
  }
  return values;
}

describe.each(["reference", "wasm"] as const)("the %s module", async (backend) => {
  const memory = new WebAssembly.Memory({ initial: wasmPagesInitial, maximum: wasmPagesMax });
  const { exports } = await WebAssembly.instantiate(await readEngineModule(backend), {
    env: { memory },
  });
  const page = exports as unknown as PageExports;

  /** Copies bytes into the module's memory. */
  function put(bytes: Uint8Array): number {
    const address = page.lek_alloc(Math.max(bytes.length, 1));
    new Uint8Array(memory.buffer, address, bytes.length).set(bytes);
    return address;
  }

  const cases = goldenCases().filter(({ plan }) => !plan.evicting);
  it.each(cases.map((golden) => [golden.name, golden] as const))(
    "flushes page %s to the golden bytes",
    (_, golden) => {
      page.lek_reset();
      const wanted = goldenPage(golden);
      const plan = put(planBlock(golden.plan));
      pageLayout(golden.plan).layers.forEach((layer, index) => {
        const k = put(new Uint8Array(ringOf(golden, index, "k").buffer));
        const v = put(new Uint8Array(ringOf(golden, index, "v").buffer));
        const block = put(new Uint8Array(layer.bytes).fill(0xaa));
        page.lek_page_flush(plan, index, k, v, ring.rows, ring.first, block);
        const found = new Uint8Array(memory.buffer, block, layer.bytes);
        const bytes = wanted.subarray(layer.offset, layer.offset + layer.bytes);
        expect(Buffer.compare(found, bytes)).toBe(0);
      });
    },
  );
});
