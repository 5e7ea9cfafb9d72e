/** Plans that came from elsewhere must load as they are. They stand beside the checkout. */
import { existsSync, readFileSync, readdirSync } from "node:fs";
import { basename } from "node:path";
import { describe, expect, it } from "vitest";
import { planBlock } from "./binary.js";
import { planCost } from "./cost.js";
import { checkPlanFits } from "./fit.js";
import { parsePlan } from "./parse.js";
import type { CachePlan } from "./plan.js";

const folders = ["../shared/plans", "../shared/models"].filter((folder) => existsSync(folder));
const missing = folders.length < 2;
const required = process.env["LEANEDGE_CI"] === "1";

function load(path: string): CachePlan {
  return parsePlan(readFileSync(path, "utf8"), basename(path, ".json"));
}

describe.skipIf(missing && !required)(
  `published plans (skipped without ../shared/plans and ../shared/models)`,
  () => {
    const files = folders.flatMap((folder) =>
      readdirSync(folder)
        .filter((name) => name.endsWith(".json"))
        .map((name) => `${folder}/${name}`),
    );

    it("are there", () => {
      expect(files).toHaveLength(5);
    });

    it.each(files)("%s is legal and lays out", (path) => {
      const plan = load(path);
      expect(plan.name).toBe(basename(path, ".json"));
      expect(planBlock(plan).length).toBeLessThan(256 * 1024);
    });

    it("give the archive bytes that the published masks are known to have", () => {
      // algorithms: 73,984 of 131,072 bytes per token (Llama), 28,032 of 57,344 (Qwen), in f16.
      expect(planCost(load("../shared/plans/llama-3.1-8b-instruct.leank.json"))).toMatchObject({
        denseBytesPerToken: 131_072,
        archiveBytesPerToken: 73_984,
      });
      expect(planCost(load("../shared/plans/qwen2.5-7b-instruct.leank.json"))).toMatchObject({
        denseBytesPerToken: 57_344,
        archiveBytesPerToken: 28_032,
      });
    });

    it("fit their model and no other", () => {
      const seed = {
        names: ["leanedge-seed-29m-q4_0", "leanedge-seed-29m"],
        fingerprint: "0".repeat(64),
        layers: 8,
        kvHeads: 4,
        headDim: 64,
      };
      for (const percent of [50, 70, 80]) {
        checkPlanFits(load(`../shared/models/leanedge-seed-29m.leank-${percent}.json`), seed);
      }
      const llama = load("../shared/plans/llama-3.1-8b-instruct.leank.json");
      expect(() => {
        checkPlanFits(llama, seed);
      }).toThrow(/plan: model is "meta-llama\/Llama-3.1-8B-Instruct", which none of/);
    });
  },
);
