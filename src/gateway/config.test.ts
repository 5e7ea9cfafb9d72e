import { describe, expect, it } from "vitest";
import { embeddedModel, findModel, parseConfig } from "./config.js";

describe("parseConfig()", () => {
  it("serves the embedded model where nothing is set", () => {
    const config = parseConfig({});
    expect(config.models).toEqual([embeddedModel]);
    expect(config).toMatchObject({
      devKey: undefined,
      corsOrigins: undefined,
      frontPort: undefined,
    });
  });

  it("reads models from JSON text or from the array itself, with defaults", () => {
    const expected = [
      { model: "a", manifest: "/models/a/manifest.json", plans: [], engines: 1, displayName: "a" },
      {
        ...{ model: "b", manifest: "/models/b.json", engines: 3, displayName: "B" },
        plans: ["/models/plans/short.json", "/long.json"],
      },
    ];
    const models = [
      { model: "a" },
      {
        ...{ model: "b", manifest: "/models/b.json", engines: 3, displayName: "B" },
        plans: ["short.json", "/long.json"],
      },
    ];
    expect(parseConfig({ LEANEDGE_MODELS: models }).models).toEqual(expected);
    expect(parseConfig({ LEANEDGE_MODELS: JSON.stringify(models) }).models).toEqual(expected);
  });

  it.each([
    ["{", "LEANEDGE_MODELS is not valid JSON"],
    ["[]", "LEANEDGE_MODELS must be an array of at least one model"],
    ["{}", "LEANEDGE_MODELS must be an array of at least one model"],
    ["[1]", "LEANEDGE_MODELS[0] must be an object"],
    ['[{"model":"a b"}]', "LEANEDGE_MODELS[0].model must be 1 to 128 characters of [A-Za-z0-9._-]"],
    ['[{"model":"a","plans":{}}]', "LEANEDGE_MODELS[0].plans must be an array of at most 7 paths"],
    [
      '[{"model":"a","plans":["a b"]}]',
      "LEANEDGE_MODELS[0].plans[0] must be a path of 1 to 256 characters of [A-Za-z0-9._/-]",
    ],
    [
      '[{"model":"a","manifest":"x"}]',
      'LEANEDGE_MODELS[0].manifest must be a path that starts with "/"',
    ],
    [
      '[{"model":"a","engines":65}]',
      "LEANEDGE_MODELS[0].engines must be a whole number from 0 to 64",
    ],
    ['[{"model":"a","displayName":1}]', "LEANEDGE_MODELS[0].displayName must be a string"],
    ['[{"model":"a"},{"model":"a"}]', 'LEANEDGE_MODELS names the model "a" twice'],
  ])("refuses the models %s", (text, message) => {
    expect(() => parseConfig({ LEANEDGE_MODELS: text })).toThrow(message);
  });

  it("reads origins and port", () => {
    expect(parseConfig({ LEANEDGE_CORS_ORIGINS: "*" }).corsOrigins).toBe("*");
    const origins = "https://a.example, https://b.example";
    expect(parseConfig({ LEANEDGE_CORS_ORIGINS: origins }).corsOrigins).toEqual([
      "https://a.example",
      "https://b.example",
    ]);
    expect(parseConfig({ LEANEDGE_FRONT_PORT: "8788" }).frontPort).toBe(8788);
    for (const port of ["0", "65536", "x", "1.5"]) {
      expect(() => parseConfig({ LEANEDGE_FRONT_PORT: port })).toThrow(
        `LEANEDGE_FRONT_PORT is "${port}"; it must be a port from 1 to 65535`,
      );
    }
  });

  it("finds models by id, and the default one without", () => {
    const config = parseConfig({ LEANEDGE_MODELS: [{ model: "a" }, { model: "b" }] });
    expect(findModel(config, "")?.model).toBe("a");
    expect(findModel(config, "b")?.model).toBe("b");
    expect(findModel(config, "c")).toBeUndefined();
  });
});
