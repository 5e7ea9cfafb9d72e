import { readFileSync } from "node:fs";
import { describe, expect, it } from "vitest";
import { groupChannels, pageSlots, storageLevels, type PageStorage } from "../plan/plan.js";
import { EngineError } from "../status.js";
import { f16ToNumber } from "./half.js";
import { noSection, pageLayout } from "./layout.js";
import { scaleOf } from "./quantise.js";
import { channelBounds, packPage, positionsProblem, unpackHead, type HeadRows } from "./page.js";
import {
  goldenCases,
  goldenPage,
  goldenPagesFile,
  goldenRows,
  planOf,
  type GoldenCase,
} from "./testing/golden.js";

const cases = goldenCases();

/** Calls `check` for every head that has a block. */
function eachHead(
  golden: GoldenCase,
  check: (layer: number, head: number, rows: HeadRows, channels: readonly number[]) => void,
): void {
  golden.plan.kept.forEach((heads, layer) => {
    heads.forEach((channels, head) => {
      if (channels.length > 0) check(layer, head, goldenRows(golden, layer, head), channels);
    });
  });
}

describe("pages-v1.bin", () => {
  it("is what this code writes, byte for byte", () => {
    const committed = readFileSync("engine/testdata/pages-v1.bin");
    expect(Buffer.compare(Buffer.from(goldenPagesFile()), committed)).toBe(0);
  });

  it("covers every storage of K with every storage of V, and every width", () => {
    const storages = new Set(cases.map(({ plan }) => `${plan.storage.k} ${plan.storage.v}`));
    expect(storages.size).toBe(16);
    const widths = new Set(
      cases.flatMap(({ plan }) => plan.kept.flat().map((list) => list.length)),
    );
    expect([...widths].sort((a, b) => a - b)).toEqual([0, 6, 8, 16, 32, 40, 48, 64, 80, 128]);
  });
});

describe.each(cases.map((golden) => [golden.name, golden] as const))("page %s", (_, golden) => {
  const { plan } = golden;
  const layout = pageLayout(plan);
  const page = goldenPage(golden);

  it("begins sections at multiples of 16, in order and without overlap", () => {
    let layerEnd = 0;
    for (const layer of layout.layers) {
      expect(layer.offset).toBe(layerEnd);
      layerEnd += layer.bytes;
      let end = 0;
      for (const head of layer.heads) {
        expect(head.offset).toBe(end);
        const { kValues, kScale, kMin, kMax, vValues, vScale, vMin, count, positions } = head;
        const sections = [kValues, kScale, kMin, kMax, vValues, vScale, vMin, count, positions];
        const present = sections.filter((section) => section !== noSection);
        expect(present.length === 0).toBe(head.width === 0);
        for (const section of present) {
          expect(section % 16).toBe(0);
          expect(section).toBeGreaterThanOrEqual(end);
          end = section + 1;
        }
        end = head.offset + head.bytes;
        expect(head.bytes % 16).toBe(0);
      }
      expect(layer.bytes).toBe(end);
    }
    expect(layout.pageBytes).toBe(layerEnd);
  });

  it("unpacks to the rows: exactly in f16, within the stated bound otherwise", () => {
    eachHead(golden, (layer, head, rows, channels) => {
      const values = unpackHead(plan, layout, page, layer, head);
      const bounds = channelBounds(plan, layout, page, layer, head);
      const count = rows.positions?.length ?? pageSlots;
      expect(values.count).toBe(count);
      expect(values.positions).toEqual(rows.positions ?? []);
      const slots = Array.from({ length: count }, (_, slot) => slot);
      const problems: string[] = [];
      // One quantisation group of inputs against what came out, in the same order.
      const compare = (what: string, storage: PageStorage, x: number[], y: number[]): void => {
        const least = Math.min(...x);
        const step = f16ToNumber(scaleOf(least, Math.max(...x), storageLevels(storage) || 1));
        x.forEach((wanted, index) => {
          const found = y[index] ?? NaN;
          const exact = storage === "f16";
          const allowed = exact ? 0 : step * (0.5 + 2 ** -15) + 2 ** -24 * Math.abs(found);
          if (!(Math.abs(wanted - found) <= allowed)) problems.push(`${what} ${index}: ${found}`);
        });
      };
      channels.forEach((channel, c) => {
        const x = slots.map((slot) => f16ToNumber(rows.k[slot * plan.headDim + channel] ?? 0));
        const y = slots.map((slot) => values.k[slot * channels.length + c] ?? NaN);
        compare(`K channel ${channel}, slot`, plan.storage.k, x, y);
        if (bounds === undefined) return;
        expect(Math.min(...x)).toBeGreaterThanOrEqual(bounds.lo[c] ?? NaN);
        expect(Math.max(...x)).toBeLessThanOrEqual(bounds.hi[c] ?? NaN);
      });
      for (const slot of slots) {
        for (let first = 0; first < plan.headDim; first += groupChannels) {
          const from = slot * plan.headDim + first;
          const to = slot * plan.headDim + Math.min(first + groupChannels, plan.headDim);
          const x = Array.from(rows.v.subarray(from, to), f16ToNumber);
          compare(
            `V slot ${slot}, group at ${first},`,
            plan.storage.v,
            x,
            Array.from(values.v.subarray(from, to)),
          );
        }
      }
      expect(problems).toEqual([]);
      expect(values.k.subarray(count * channels.length).every((x) => x === 0)).toBe(true);
      expect(values.v.subarray(count * plan.headDim).every((x) => x === 0)).toBe(true);
    });
  });

  it("has the bounds that its plan promises", () => {
    eachHead(golden, (layer, head) => {
      const wanted = plan.storage.k !== "f16" || plan.pageSelection !== undefined;
      expect(channelBounds(plan, layout, page, layer, head) !== undefined).toBe(wanted);
    });
  });
});

describe("packPage", () => {
  const plan = planOf(16, [[16, 0]], { storage: { k: "int8", v: "int8" } });
  const layout = pageLayout(plan);
  const rows = (): HeadRows => ({ k: new Uint16Array(512), v: new Uint16Array(512) });

  it("keeps -0 in f16 pages: the bits are those of the rows", () => {
    const f16 = planOf(16, [[16]], {});
    const input = rows();
    input.k.fill(0x8000);
    input.v.fill(0x8001);
    const page = packPage(f16, pageLayout(f16), () => input);
    const halves = new Set(new Uint16Array(page.buffer));
    expect(halves).toEqual(new Set([0x8000, 0x8001]));
  });

  it("refuses NaN and infinity in what it would store, and does not look at the rest", () => {
    for (const part of ["k", "v"] as const) {
      const input = rows();
      input[part][511] = 0x7c00;
      expect(() => packPage(plan, layout, () => input)).toThrow(
        part === "k" ? "page: K of channel 15, layer 0" : "page: V of slot 31, layer 0",
      );
    }
    const pruned = planOf(32, [[16]], {});
    const wide = { k: new Uint16Array(1024), v: new Uint16Array(1024) };
    // Channel 0 is not among 1, 3, 5 ... 31.
    wide.k.fill(0x7e00, 0, 1);
    expect(packPage(pruned, pageLayout(pruned), () => wide)).toHaveLength(16 * 64 + 2048);
  });

  it("refuses rows of another shape, and positions where there must be none", () => {
    expect(() => packPage(plan, layout, () => ({ ...rows(), k: new Uint16Array(511) }))).toThrow(
      "have 511 and 512 values, must have 512",
    );
    expect(() => packPage(plan, layout, () => ({ ...rows(), positions: [1] }))).toThrow(
      "if and only if the plan is evicting",
    );
  });

  it.each([
    [[], "count of layer 0, KV head 0 is 0, must be 1 .. 32"],
    [Array.from({ length: 33 }, (_, i) => i), "is 33, must be 1 .. 32"],
    [[3, 3], "position 3 of layer 0, KV head 0 must be above 3"],
  ])("refuses positions %j under an evicting plan", (positions, message) => {
    const evicting = { ...plan, evicting: true };
    const pack = (): unknown =>
      packPage(evicting, pageLayout(evicting), () => ({ ...rows(), positions }));
    expect(pack).toThrow(EngineError);
    expect(pack).toThrow(message);
  });
});

describe("positionsProblem", () => {
  it("finds counts and positions out of order", () => {
    const golden = cases.find(({ name }) => name === "evicting-int4");
    if (golden === undefined) throw new Error("the case is gone");
    const layout = pageLayout(golden.plan);
    const head = layout.layers[0]?.heads[2];
    if (head === undefined) throw new Error("the head is gone");
    const broken = (offset: number, value: number): string | undefined => {
      const page = goldenPage(golden);
      new DataView(page.buffer).setUint32(offset, value, true);
      return positionsProblem(layout, page);
    };
    expect(positionsProblem(layout, goldenPage(golden))).toBeUndefined();
    expect(broken(head.count, 0)).toBe("count of layer 0, KV head 2 is 0, must be 1 .. 32");
    expect(broken(head.count, 33)).toBe("count of layer 0, KV head 2 is 33, must be 1 .. 32");
    expect(broken(head.positions + 4, 0)).toBe(
      "position of slot 1 of layer 0, KV head 2 is not above the one before it",
    );
  });
});
