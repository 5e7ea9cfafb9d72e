import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { embedded, embeddedFile, embeddedPlanFile } from "../embedded-model.js";
import { build } from "./build.js";
import { fittingPlans, readPlan, servedModels } from "./plan-files.js";
import { packagePath } from "./repository.js";

const { model } = embedded;
let folder: string;
let assets: string;

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "leanedge-plans-"));
  assets = join(folder, "public");
  await build(assets);
});

afterAll(() => rm(folder, { recursive: true }));

function own(name: string): string {
  return packagePath(embeddedPlanFile(name));
}

/** Writes a plan of the model, changed. */
async function changed(name: string, change: object): Promise<string> {
  const plan = JSON.parse(await readFile(own("leank-70-int4"), "utf8")) as object;
  const path = join(folder, `${name}.json`);
  await writeFile(path, JSON.stringify({ ...plan, ...change }));
  return path;
}

describe("build", () => {
  it("puts the model's own plans where its engine looks for them", async () => {
    for (const name of ["leank-50", "leank-70", "leank-70-int4", "leank-80"]) {
      const copy = await readFile(join(assets, "models", model, "plans", `${name}.json`), "utf8");
      expect(copy).toBe(await readFile(own(name), "utf8"));
    }
  });
});

describe("fittingPlans", () => {
  it("leaves out plans of other models and other shapes", async () => {
    const paths = [
      own("leank-50"),
      await changed("other-model", { model: "another" }),
      await changed("anyone", { model: "*" }),
      await changed("other-file", { model: `sha256:${"0".repeat(64)}` }),
    ];
    const plans = await Promise.all(paths.map(readPlan));
    const found = await fittingPlans(plans, packagePath(embeddedFile), "m");
    expect(found.map(({ path }) => path)).toEqual([paths[0], paths[2]]);
  });
});

describe("servedModels", () => {
  it("leaves the configuration alone where no plan is named, and takes all plans away for none", async () => {
    expect(await servedModels([], assets)).toBeUndefined();
    expect(JSON.parse((await servedModels(["none"], assets)) ?? "")).toMatchObject([
      { model, plans: [] },
    ]);
    await expect(servedModels(["none", own("leank-50")], assets)).rejects.toThrow(
      '"--plan none" goes with no other plan',
    );
  });

  it("keeps the order, and copies each plan under a name of its content", async () => {
    const value = (await servedModels([own("leank-80"), own("leank-50")], assets)) ?? "";
    const [entry] = JSON.parse(value) as { plans: string[] }[];
    expect(entry?.plans).toHaveLength(2);
    for (const [index, name] of ["leank-80", "leank-50"].entries()) {
      const path = entry?.plans[index] ?? "";
      expect(path).toMatch(new RegExp(`^${name}-[0-9a-f]{16}\\.json$`));
      const copy = await readFile(join(assets, "models", model, "plans", path), "utf8");
      const plan = JSON.parse(await readFile(own(name), "utf8")) as object;
      expect(JSON.parse(copy)).toEqual({ ...plan, name });
    }
  });

  it("refuses what does not fit the model, with file, field and reason", async () => {
    const cases: readonly (readonly [object, RegExp])[] = [
      [{ model: "llama-3" }, /changed\.json: plan: model is "llama-3", which none of the model's/],
      [{ layers: 9 }, /changed\.json: plan: /],
      [
        { model: `sha256:${"0".repeat(64)}` },
        /changed\.json: plan: model is sha256:0+, the file's/,
      ],
      [{ sink: -1 }, /changed\.json: plan: .*sink/],
    ];
    for (const [change, message] of cases) {
      await expect(servedModels([await changed("changed", change)], assets)).rejects.toThrow(
        message,
      );
    }
    await writeFile(join(folder, "no.json"), "{");
    await expect(servedModels([join(folder, "no.json")], assets)).rejects.toThrow(
      /no\.json: plan is not JSON/,
    );
    const eight = Array.from({ length: 8 }, () => own("leank-50"));
    await expect(servedModels(eight, assets)).rejects.toThrow(
      "8 plans are named, at most 7 are served",
    );
  });
});
