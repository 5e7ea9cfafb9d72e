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
  /** Names of series that were made: those of a metric, and of its buckets, sum and count. */
  readonly #names = new Map<string, readonly string[]>();

  /** Adds to a counter. */
  count(metric: Metric, labels: Labels, by = 1): void {
    if (by > 0) {
      for (const series of this.#series(metric, labels)) {
        this.#add(series, by);
      }
    }
  }

  /** Adds an observation to a histogram. */
  observe(
    metric: Metric & { readonly buckets: readonly number[] },
    labels: Labels,
    value: number,
  ): void {
    const { buckets } = metric;
    const series = this.#series(metric, labels);
    series.forEach((name, index) => {
      const bound = buckets[index];
      if (bound !== undefined) {
        // Those that it does not fall into too: a bucket that appears late looks like one that jumps.
        this.#add(name, value <= bound ? 1 : 0);
      } else {
        // The last bucket, the sum and the count.
        this.#add(name, index === buckets.length + 1 ? value : 1);
      }
    });
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

  /** Names of a metric's series under these labels: its buckets, sum and count, or its own. */
  #series(metric: Metric, labels: Labels): readonly string[] {
    const { buckets, name } = metric;
    const key = `${name} ${Object.values(labels).join(" ")}`;
    let names = this.#names.get(key);
    if (names === undefined) {
      names =
        buckets === undefined
          ? [seriesName(name, labels)]
          : [
              ...[...buckets.map(String), "+Inf"].map((le) =>
                seriesName(`${name}_bucket`, { ...labels, le }),
              ),
              seriesName(`${name}_sum`, labels),
              seriesName(`${name}_count`, labels),
            ];
      if (this.#names.size < metricSeriesMax) {
        this.#names.set(key, names);
      }
    }
    return names;
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
