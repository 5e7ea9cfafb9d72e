/**
 * Clients that come, leave in the middle and return at random, for LEANEDGE_SOAK_SECONDS (20 if unset, 40 in CI): memory
 * of the worker process stays flat, nothing is left behind, and every answer that was not left is whole.
 *
 *     LEANEDGE_SOAK_SECONDS=600 npx vitest run --project node test/worker/soak.test.ts
 */
import { readFile } from "node:fs/promises";
import { Code, ConnectError } from "@connectrpc/connect";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { embedded } from "../../src/embedded-model.js";
import { SeededRandom } from "../oracle/random.js";
import { Role } from "../../src/gen/leanedge/v1/session_pb.js";
import type { PrefixName } from "../../src/gen/leanedge/worker/v1/worker_pb.js";
import {
  openWorkerClient,
  startWorkerProcess,
  type RunningWorkerProcess,
  type WorkerClient,
} from "../support/worker-process.js";

const seconds = Number(
  process.env["LEANEDGE_SOAK_SECONDS"] ?? (process.env["LEANEDGE_CI"] === "1" ? "40" : "20"),
);
const clientsMax = 12;
/** What the process may grow by after its first third, in bytes: the JavaScript heap breathes. */
const growthBytesMax = 48 << 20;

let worker: RunningWorkerProcess;

beforeAll(async () => {
  // Little memory and few places, so that caches go and sequences are forgotten all the time.
  worker = await startWorkerProcess("--memory", "64", "--sequences", "16");
}, 120_000);

afterAll(() => worker.kill());

async function residentBytes(): Promise<number> {
  const status = await readFile(`/proc/${worker.pid}/status`, "utf8");
  return Number(/VmRSS:\s+(\d+) kB/.exec(status)?.[1] ?? 0) * 1024;
}

interface Tally {
  whole: number;
  left: number;
  replayed: number;
  cached: number;
  refused: Map<string, number>;
}

/** One client: turns of a few sessions, now and then it leaves, or comes back to a cache that is gone. */
async function wander(id: number, untilMs: number, tally: Tally): Promise<void> {
  const source = new SeededRandom(id + 1);
  const noise = (): number => source.uniform();
  const prefixes = new Map<string, PrefixName | undefined>();
  let client: WorkerClient = openWorkerClient(worker.url, id % 2 === 0 ? "2" : "1.1");
  while (performance.now() < untilMs) {
    if (noise() < 0.1) client = openWorkerClient(worker.url, noise() < 0.5 ? "2" : "1.1");
    const session = `client${id}-${Math.floor(noise() * 3)}`;
    const leaving = new AbortController();
    const leavesAfter = noise() < 0.4 ? Math.floor(noise() * 10) : Infinity;
    const text = "word ".repeat(1 + Math.floor(noise() * 60));
    const prefix = prefixes.get(session);
    try {
      let tokens = 0;
      let ended = false;
      const stream = client.generate(
        {
          sequenceId: session,
          generation: 1n,
          model: embedded.model,
          messages: [{ role: Role.USER, text }],
          sampling: { maxTokens: 1 + Math.floor(noise() * 20), temperature: 1, seed: BigInt(id) },
          ...(prefix === undefined ? {} : { prefix }),
        },
        { signal: leaving.signal },
      );
      if (leavesAfter === 0) leaving.abort();
      for await (const { event } of stream) {
        if (event.case === "accepted") tally.cached += event.value.cachedTokens;
        if (event.case === "tokens") tokens += event.value.ids.length;
        if (event.case === "prefixMissing") {
          // The gateway would bring its log; this client begins anew.
          tally.replayed++;
          prefixes.delete(session);
          ended = true;
        }
        if (event.case === "finished") {
          expect(event.value.generatedTokens).toBe(tokens);
          const known = event.value.prefix;
          prefixes.set(session, (known?.tokens ?? 0) > 1_500 ? undefined : known);
          tally.whole++;
          ended = true;
        }
        if (tokens > leavesAfter) leaving.abort();
      }
      expect(ended).toBe(true);
    } catch (error) {
      if (!(error instanceof ConnectError)) throw error;
      prefixes.delete(session);
      if (error.code === Code.Canceled) tally.left++;
      else tally.refused.set(Code[error.code], (tally.refused.get(Code[error.code]) ?? 0) + 1);
    }
  }
}

describe("a worker whose clients come and go", () => {
  it(
    `keeps its memory flat for ${seconds} seconds`,
    { timeout: (seconds + 120) * 1000 },
    async () => {
      const startMs = performance.now();
      const untilMs = startMs + seconds * 1000;
      const tally: Tally = { whole: 0, left: 0, replayed: 0, cached: 0, refused: new Map() };
      const samples: { at: number; bytes: number }[] = [];
      const watch = (async () => {
        while (performance.now() < untilMs) {
          samples.push({ at: performance.now() - startMs, bytes: await residentBytes() });
          await new Promise((resolve) => setTimeout(resolve, 500));
        }
      })();
      await Promise.all([
        watch,
        ...Array.from({ length: clientsMax }, (_, id) => wander(id, untilMs, tally)),
      ]);

      const client = openWorkerClient(worker.url);
      await expect.poll(async () => (await client.getStatus({})).running).toBe(0);
      const status = await client.getStatus({});
      expect(status.queued).toBe(0);
      expect(status.sequences).toBeLessThanOrEqual(16);
      // What idle sequences hold could go at once: no page is lost.
      expect(status.pagesFree).toBe(status.pages);

      const third = (part: number): number => {
        const from = (part * seconds * 1000) / 3;
        const within = samples.filter(({ at }) => at >= from && at < from + (seconds * 1000) / 3);
        return Math.max(...within.map(({ bytes }) => bytes));
      };
      const mebibytes = samples
        .filter((_, index) => index % Math.ceil(samples.length / 12) === 0)
        .map(({ bytes }) => (bytes / 2 ** 20).toFixed(0));
      console.log(
        `${seconds} s: ${tally.whole} answers whole, ${tally.left} left, ${tally.replayed} began anew, ` +
          `${tally.cached} tokens cached, refused ${JSON.stringify([...tally.refused])}; MiB: ${mebibytes.join(" ")}`,
      );
      expect(tally.whole).toBeGreaterThan(seconds / 2);
      expect(tally.left).toBeGreaterThan(0);
      expect(tally.cached).toBeGreaterThan(0);
      // Every place may be taken by sequences at work; nothing else is refused.
      expect([...tally.refused.keys()].filter((code) => code !== "ResourceExhausted")).toEqual([]);
      expect(third(2) - third(0)).toBeLessThan(growthBytesMax);
    },
  );
});
