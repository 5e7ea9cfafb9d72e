import { readFile } from "node:fs/promises";
import { resolve } from "node:path";
import { describe, expect, it } from "vitest";
import { WorkerMetrics, type WorkerLevels } from "./metrics.js";

const levels: WorkerLevels = {
  running: 3,
  queued: 2,
  sequences: 7,
  pages: 100,
  pagesFree: 25,
  pagesIdle: 5,
  cacheBytes: 1_000,
  cacheBytesFree: 250,
  memoryBytes: 5_000,
  snapshots: { saved: 4, restored: 3, stale: 2, broken: 1 },
};

function value(text: string, start: string): number {
  const line = text.split("\n").find((each) => each.startsWith(start));
  return Number(line?.slice(line.lastIndexOf(" ") + 1));
}

describe("WorkerMetrics", () => {
  it("has the metrics that docs/worker.md lists, and no others", async () => {
    const document = await readFile(resolve(import.meta.dirname, "../../docs/worker.md"), "utf8");
    const documented = [...document.matchAll(/`(leanedge:\w+)`/g)].map((match) => match[1]);
    const all = await new WorkerMetrics("m").registry.getMetricsAsJSON();
    const names = all.map(({ name }) => name).filter((name) => name.startsWith("leanedge:"));
    expect([...new Set(documented)].sort()).toEqual(names.sort());
  });

  it("shows levels as they are when somebody looks, and the latest where there are none", async () => {
    const metrics = new WorkerMetrics("m");
    await metrics.text(levels);
    const text = await metrics.text(undefined);
    expect(value(text, "leanedge:num_requests_running")).toBe(3);
    expect(value(text, "leanedge:num_requests_waiting")).toBe(2);
    expect(value(text, "leanedge:kv_cache_usage_perc")).toBe(0.75);
    expect(value(text, "leanedge:pages_free")).toBe(25);
    expect(value(text, 'leanedge:snapshots_total{outcome="stale"')).toBe(2);
    const later = await metrics.text({ ...levels, snapshots: { ...levels.snapshots, stale: 5 } });
    expect(value(later, 'leanedge:snapshots_total{outcome="stale"')).toBe(5);
  });

  it("counts the rows of a step, whole ones", async () => {
    const metrics = new WorkerMetrics("m");
    const result = { token: 1, logprob: 0, rowsPending: 1, error: undefined };
    const entry = { workMax: 100, sample: true };
    metrics.step(
      0.03,
      [
        { ...entry, sequence: 0 },
        { ...entry, sequence: 1 },
      ],
      [
        { ...result, workDone: 4 },
        { ...result, workDone: 36 },
      ],
      4,
    );
    const text = await metrics.text(undefined);
    expect(value(text, "leanedge:iteration_tokens_total_sum")).toBe(10);
    expect(value(text, "leanedge:step_sequences_sum")).toBe(2);
    expect(value(text, "leanedge:step_duration_seconds_sum")).toBe(0.03);
  });

  it("names the model in every line", async () => {
    const text = await new WorkerMetrics("some-model").text(levels);
    const lines = text.split("\n").filter((line) => line.startsWith("leanedge:"));
    expect(lines.length).toBeGreaterThan(100);
    expect(lines.filter((line) => !line.includes('model_name="some-model"'))).toEqual([]);
  });
});
