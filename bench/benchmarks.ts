/** All benchmarks, in the order in which they run. */
import { casesOf } from "./decode/cases.js";
import { runDecode } from "./decode/index.js";
import type { Benchmark } from "./support/section.js";

/** The list. */
export const benchmarks: readonly Benchmark[] = [
  { name: "decode", run: (options) => runDecode(options, casesOf(options)) },
];
