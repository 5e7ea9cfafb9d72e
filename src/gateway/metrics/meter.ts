/**
 * Counts of an isolate until they are added to those of all. Isolates end without a word, so counts leave for the
 * MetricsObject within metricsFlushMs of the first of them; what is lost is at most what an isolate counted in that time.
 * Counting itself is a change of a map.
 */
import { metricSeriesMax } from "../limits.js";
import { metricPrefix } from "./definitions.js";
import type { Metric } from "./definitions.js";

/** Values of a metric's labels. */
export type Labels = Readonly<Record<string, string>>;

/** Sums by series, each named as in the Prometheus text format. */
export type Sums = Readonly<Record<string, number>>;

/** See the head of this file. */
export class Meter {
  #sums = new Map<string, number>();

  /** Adds to a counter. */
  count(metric: Metric, labels: Labels, by = 1): void {
    if (by > 0) {
      this.#add(seriesName(metric.name, labels), by);
    }
  }

  /** Adds an observation to a histogram. */
  observe(
    metric: Metric & { readonly buckets: readonly number[] },
    labels: Labels,
    value: number,
  ): void {
    const { buckets, name } = metric;
    for (const bound of buckets) {
      // Those that it does not fall into too: a bucket that appears late looks like one that jumps.
      const series = seriesName(`${name}_bucket`, { ...labels, le: String(bound) });
      this.#add(series, value <= bound ? 1 : 0);
    }
    this.#add(seriesName(`${name}_bucket`, { ...labels, le: "+Inf" }), 1);
    this.#add(seriesName(`${name}_sum`, labels), value);
    this.#add(seriesName(`${name}_count`, labels), 1);
  }

  /** Whether nothing was counted since the last `take`. */
  get empty(): boolean {
    return this.#sums.size === 0;
  }

  /** What was counted since the last one. */
  take(): Sums {
    const sums = Object.fromEntries(this.#sums);
    this.#sums = new Map();
    return sums;
  }

  /** Puts back what could not be delivered. */
  put(sums: Sums): void {
    for (const [series, value] of Object.entries(sums)) {
      this.#add(series, value);
    }
  }

  #add(series: string, value: number): void {
    const before = this.#sums.get(series);
    // A bound that labels of few values never reach; if one of ours grows wild, others still count.
    if (before !== undefined || this.#sums.size < metricSeriesMax) {
      this.#sums.set(series, (before ?? 0) + value);
    }
  }
}

/** Name of a series: that of its metric, and its labels in the order given. */
export function seriesName(name: string, labels: Labels): string {
  const pairs = Object.entries(labels).map(([label, value]) => `${label}="${value}"`);
  return `${metricPrefix}${name}${pairs.length === 0 ? "" : `{${pairs.join(",")}}`}`;
}
