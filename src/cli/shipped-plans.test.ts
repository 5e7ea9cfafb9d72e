import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { embedded, embeddedPlanFile } from "../embedded-model.js";
import { packagePath } from "./repository.js";
import { planPath } from "./shipped-plans.js";

let folder: string;

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "leanedge-shipped-"));
  for (const name of ["a.leank-70.json", "a.leank-60.json", "ab.leank-50.json", "a.gguf"]) {
    await writeFile(join(folder, name), "{}");
  }
});

afterAll(() => rm(folder, { recursive: true }));

describe("planPath", () => {
  it("finds a model's plan by its name, and leaves paths alone", async () => {
    expect(await planPath("leank-70", ["x", "a"], folder)).toBe(join(folder, "a.leank-70.json"));
    expect(await planPath("my/plan.json", ["a"], folder)).toBe("my/plan.json");
    expect(await planPath("none-such.json", ["a"], folder)).toBe("none-such.json");
  });

  it("names the model's plans where it has none of this name", async () => {
    await expect(planPath("leank-50", ["a"], folder)).rejects.toThrow(
      "plan leank-50 is neither a file nor a plan that is shipped for a: leank-60, leank-70",
    );
    await expect(planPath("leank-50", ["c"], folder)).rejects.toThrow("for c, which has none");
  });

  it("finds the embedded model's", async () => {
    expect(await planPath(embedded.plan, [embedded.model])).toBe(packagePath(embeddedPlanFile()));
  });
});
