/**
 * Sums in the Prometheus text format. Written here because what there is to write are sums of many isolates: client
 * libraries keep the state of one process, and bring Node's own metrics along.
 */
import { gatewayMetrics, metricPrefix } from "./definitions.js";
import type { Metric } from "./definitions.js";
import type { Sums } from "./meter.js";

/** All metrics of the gateway; one that nothing was counted of has its head only. */
export function renderSums(sums: Sums): string {
  const lines = Object.values<Metric>(gatewayMetrics).flatMap(({ name, kind, help }) => {
    const full = `${metricPrefix}${name}`;
    const names = kind === "counter" ? [full] : [`${full}_bucket`, `${full}_sum`, `${full}_count`];
    const samples = names.flatMap((sample) =>
      Object.entries(sums)
        .filter(([series]) => series === sample || series.startsWith(`${sample}{`))
        .sort(byLabels)
        .map(([series, value]) => `${series} ${value}`),
    );
    return [`# HELP ${full} ${help}`, `# TYPE ${full} ${kind}`, ...samples];
  });
  return `${lines.join("\n")}\n`;
}

/** By labels, and buckets by their bounds. */
function byLabels([a]: readonly [string, number], b: readonly [string, number]): number {
  const left = bucketOf(a);
  const right = bucketOf(b[0]);
  if (left.labels !== right.labels) {
    return left.labels < right.labels ? -1 : 1;
  }
  return left.bound - right.bound;
}

function bucketOf(series: string): { readonly labels: string; readonly bound: number } {
  const [, labels = series, bound] = /^(.*),?le="([^"]*)"}$/.exec(series) ?? [];
  return { labels, bound: bound === undefined || bound === "+Inf" ? Infinity : Number(bound) };
}
