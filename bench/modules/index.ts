/** Sizes of the committed modules. See README.md beside this file. */
import { readdirSync, statSync } from "node:fs";
import type { Figure } from "../support/figures.js";
import type { Section } from "../support/section.js";

/** The ceiling of one module; 1 KB is 1,024 bytes, as in scripts/build-wasm.sh. */
const kilobytesMax = 400;

const prebuilt = new URL("../../wasm/prebuilt/", import.meta.url);

/** Measures all modules. */
export function runModules(): Promise<Section> {
  const modules = readdirSync(prebuilt)
    .filter((name) => name.endsWith(".wasm"))
    .map((name) => ({ name, bytes: statSync(new URL(name, prebuilt)).size }));
  return Promise.resolve({
    name: "modules",
    markdown: [
      "| module | bytes |",
      "| --- | --- |",
      ...modules.map(({ name, bytes }) => `| ${name} | ${bytes} |`),
    ].join("\n"),
    figures: modules.map(({ name, bytes }): Figure => ({
      name: `size of ${name}`,
      ...{ measured: bytes / 1024, bound: kilobytesMax, sense: "at most", unit: "KB" },
    })),
    images: new Map(),
  });
}
