/**
 * Caches that were never computed: snapshots of random K and V, restored in a moment where a prompt
 * of as many tokens would take minutes. What an engine reads from them is nonsense, but it reads all
 * of it, and every backend must make the same nonsense of it.
 */
import { numberToF16 } from "../../src/engine/page/half.js";
import { pageLayout } from "../../src/engine/page/layout.js";
import { packPage } from "../../src/engine/page/page.js";
import { encodeSnapshot, snapshotChecksumBytes } from "../../src/engine/page/snapshot.js";
import { archivePages, pageSlots } from "../../src/engine/plan/plan.js";
import type { CachePlan } from "../../src/engine/plan/plan.js";
import { SeededRandom } from "../../test/oracle/random.js";

/** Pages of different values; the cache repeats them, each in memory of its own. */
const distinctPages = 4;

/** No engine looks at fingerprints: that is the host's work. */
const anyone = "0".repeat(64);

function f16Normals(random: SeededRandom, count: number): Uint16Array {
  return Uint16Array.from(random.normals(count, 1), numberToF16);
}

/** A snapshot of `tokens` tokens under a plan, as `Engine.restore` takes it. */
export async function syntheticSnapshot(plan: CachePlan, tokens: number): Promise<Uint8Array> {
  const { headDim, sink, recent } = plan;
  const layout = pageLayout(plan);
  const random = new SeededRandom(tokens);
  const rows = (count: number): Uint16Array => f16Normals(random, count * headDim);
  const patterns = Array.from({ length: distinctPages }, () =>
    packPage(plan, layout, () => ({ k: rows(pageSlots), v: rows(pageSlots) })),
  );
  const pages = archivePages(tokens, sink, recent);
  const sinkRows = Math.min(tokens, sink);
  const recentRows = tokens - sinkRows - pages * pageSlots;
  const ids = Array.from({ length: tokens }, (_, i) => 300 + (i % 200));
  const bytes = await encodeSnapshot(
    plan,
    { model: anyone, template: anyone, plan: anyone },
    {
      segments: [{ kind: "prompt", ids }],
      cacheTokens: tokens,
      rows: () => ({
        kSink: rows(sinkRows),
        kRecent: rows(recentRows),
        vSink: rows(sinkRows),
        vRecent: rows(recentRows),
      }),
      pages: Array.from(
        { length: pages },
        (_, i) => patterns[i % distinctPages] ?? new Uint8Array(),
      ),
    },
  );
  return bytes.subarray(0, bytes.length - snapshotChecksumBytes);
}
