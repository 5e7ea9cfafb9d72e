/** The benchmark in its tiny mode: its figures mean nothing, but every variant answers, and answers right. */
import { readFileSync } from "node:fs";
import { describe, expect, it } from "vitest";
import { missing, titled } from "../../test/peers/peers.js";
import { runGateway } from "./index.js";
import { workerdConfig } from "./serve-gateway.js";
import { portkey } from "./serve-portkey.js";

const timeoutMs = 240_000;
const tiny = { rounds: 1, full: false, tiny: true, log: () => undefined };

describe("the gateway's benchmark", () => {
  it(
    "measures the gateway in both of its forms against the stub alone",
    async () => {
      const variants = ["direct", "leanedge", "leanedge-connect"];
      const { markdown, figures, images } = await runGateway({ ...tiny, variants });
      expect(markdown).toMatch(/^\| leanedge, OpenAI's form \| -?\d/m);
      expect(markdown).toMatch(/^\| leanedge, Connect \| -?\d/m);
      expect(figures.find(({ name }) => name.endsWith("found their cache"))?.measured).toBe(1);
      expect(figures.filter(({ unit }) => unit === "ms")).toHaveLength(2);
      expect(images.get("bench-gateway.svg")).toContain("2 clients");
    },
    timeoutMs,
  );

  it.skipIf(missing(portkey))(
    titled("measures Portkey's gateway", portkey),
    async () => {
      const { markdown } = await runGateway({ ...tiny, variants: ["portkey"] });
      expect(markdown).toMatch(/^\| Portkey, OpenAI's form \| - \|/m);
    },
    timeoutMs,
  );
});

describe("workerdConfig()", () => {
  const toml = readFileSync(new URL("../../wrangler.toml", import.meta.url), "utf8");
  const options = { wasm: ["a.wasm"], vars: { NAME: 'a "b"' }, port: 1, storage: "/s" };

  it("says what wrangler.toml says, and the variables", () => {
    const text = workerdConfig({ ...options, toml });
    expect(text).toContain('(name = "SESSION", durableObjectNamespace = "SessionObject")');
    expect(text).toContain(
      '(className = "PoolObject", uniqueKey = "PoolObject", enableSql = true)',
    );
    expect(text).toContain('(name = "NAME", text = "a \\"b\\"")');
    expect(text).toContain('(name = "./a.wasm", wasm = embed "a.wasm")');
  });

  it("refuses one that lacks them", () => {
    expect(() => workerdConfig({ ...options, toml: "" })).toThrow(
      "wrangler.toml names no compatibility date",
    );
  });
});
