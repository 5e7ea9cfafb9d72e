import { readFile } from "node:fs/promises";
import { resolve } from "node:path";
import { describe, expect, it } from "vitest";
import { metricSeriesMax } from "../limits.js";
import { gatewayMetrics } from "./definitions.js";
import { Meter } from "./meter.js";
import { renderSums } from "./render.js";

describe("a meter", () => {
  it("adds up by metric and labels, and begins anew once its sums were taken", () => {
    const meter = new Meter();
    meter.count(gatewayMetrics.turns, { outcome: "stop", placement: "bound" });
    meter.count(gatewayMetrics.turns, { outcome: "stop", placement: "bound" });
    meter.count(gatewayMetrics.tokens, { kind: "prompt" }, 40);
    meter.count(gatewayMetrics.tokens, { kind: "cached" }, 0);
    expect(meter.take()).toEqual({
      'leanedge:gateway_turns_total{outcome="stop",placement="bound"}': 2,
      'leanedge:gateway_tokens_total{kind="prompt"}': 40,
    });
    expect(meter.empty).toBe(true);
  });

  it("keeps what could not be delivered together with what came since", () => {
    const meter = new Meter();
    meter.count(gatewayMetrics.failovers, {});
    const sums = meter.take();
    meter.count(gatewayMetrics.failovers, {});
    meter.put(sums);
    expect(meter.take()).toEqual({ "leanedge:gateway_failovers_total": 2 });
  });

  it("holds a bounded number of series, and goes on adding to those", () => {
    const meter = new Meter();
    for (let series = 0; series < metricSeriesMax + 10; series++) {
      meter.count(gatewayMetrics.refusals, { reason: String(series) });
    }
    meter.count(gatewayMetrics.refusals, { reason: "0" });
    const sums = meter.take();
    expect(Object.keys(sums)).toHaveLength(metricSeriesMax);
    expect(sums['leanedge:gateway_refusals_total{reason="0"}']).toBe(2);
  });
});

describe("sums as text", () => {
  const meter = new Meter();
  for (const seconds of [0.02, 0.3, 100]) {
    meter.observe(gatewayMetrics.firstToken, { protocol: "openai" }, seconds);
  }
  meter.observe(gatewayMetrics.firstToken, { protocol: "connect" }, 0.02);
  meter.count(gatewayMetrics.answers, { protocol: "openai", outcome: "stop" }, 3);
  const text = renderSums(meter.take());
  const lines = text.split("\n");

  it("have a head for each metric, and every sample under its own", () => {
    const heads = lines.filter((line) => line.startsWith("# TYPE"));
    expect(heads).toHaveLength(Object.keys(gatewayMetrics).length);
    expect(text.endsWith("\n")).toBe(true);
    let metric = "";
    for (const line of lines.slice(0, -1)) {
      const [, head] = /^# TYPE (\S+)/.exec(line) ?? [];
      metric = head ?? metric;
      if (!line.startsWith("#")) expect(line.startsWith(metric)).toBe(true);
    }
  });

  it("have cumulative buckets in the order of their bounds, the last equal to the count", () => {
    const buckets = lines.filter((line) =>
      line.startsWith('leanedge:gateway_time_to_first_token_seconds_bucket{protocol="openai"'),
    );
    const bounds = buckets.map((line) => /le="([^"]*)"/.exec(line)?.[1]);
    expect(bounds).toEqual([...gatewayMetrics.firstToken.buckets.map(String), "+Inf"]);
    const values = buckets.map((line) => Number(line.split(" ").at(-1)));
    expect(values).toEqual(values.toSorted((a, b) => a - b));
    expect(values.at(-1)).toBe(3);
    expect(text).toContain(
      'leanedge:gateway_time_to_first_token_seconds_count{protocol="openai"} 3',
    );
    expect(text).toContain(
      'leanedge:gateway_time_to_first_token_seconds_sum{protocol="connect"} 0.02',
    );
    expect(text).toContain('leanedge:gateway_answers_total{protocol="openai",outcome="stop"} 3');
  });
});

it("are listed in the documentation, all of them and no others", async () => {
  const page = await readFile(resolve(import.meta.dirname, "../../../docs/operations.md"), "utf8");
  const documented = [...page.matchAll(/^\| `leanedge:gateway_(\w+)` \| (\w+) \|/gm)].map(
    ([, name, kind]) => `${name ?? ""} ${kind ?? ""}`,
  );
  const defined = Object.values(gatewayMetrics).map(({ name, kind }) => `${name} ${kind}`);
  expect(documented.sort()).toEqual(defined.sort());
});
