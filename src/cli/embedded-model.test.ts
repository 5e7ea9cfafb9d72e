import { readFileSync, readdirSync } from "node:fs";
import { describe, expect, it } from "vitest";
import { embedded, embeddedFile, embeddedPlanFile } from "../embedded-model.js";
import { packagePath } from "./repository.js";

/** Pages whose commands name the embedded model. */
const pages = ["models/README.md", "docs/operations.md", "docs/worker.md"];

function text(path: string): string {
  return readFileSync(packagePath(path), "utf8");
}

describe("the embedded model", () => {
  it("is the only one in models/, with its plans", () => {
    const files = readdirSync(packagePath("models")).map((name) => `models/${name}`);
    expect(files.filter((name) => name.endsWith(".gguf"))).toEqual([embeddedFile]);
    expect(files).toContain(embeddedPlanFile());
  });

  it("is what wrangler.toml serves", () => {
    const models = /^LEANEDGE_MODELS = '(?<json>.*)'$/m.exec(text("wrangler.toml"))?.groups?.[
      "json"
    ];
    const { model, displayName, plan } = embedded;
    expect(JSON.parse(models ?? "")).toEqual([
      { model, displayName, engines: 1, plans: [`${plan}.json`] },
    ]);
  });

  it.each(pages)("has its name in %s, and no other stands there", (page) => {
    const names = text(page).match(/leanedge-[a-z0-9-]*\d+m/g) ?? [];
    expect(new Set(names)).toEqual(new Set([embedded.model]));
  });
});
