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
    ['[{"model":"a","fallback":"a"}]', "LEANEDGE_MODELS[0].fallback must name another model"],
    [
      '[{"model":"a","fallback":{"model":"b","unasked":1}},{"model":"b"}]',
      "LEANEDGE_MODELS[0].fallback.unasked must be true or false",
    ],
    [
      '[{"model":"a","fallback":"b"}]',
      'LEANEDGE_MODELS names the fallback "b", which is no model of it',
    ],
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

  it("reads the longest interval between events of tokens", () => {
    const read = (value?: string) =>
      parseConfig(value === undefined ? {} : { LEANEDGE_TEXT_INTERVAL_MS_MAX: value })
        .textIntervalMsMax;
    expect([read(), read(""), read("0"), read("1000")]).toEqual([50, 50, 0, 1000]);
    for (const ms of ["-1", "1001", "1.5", "soon"]) {
      expect(() => read(ms)).toThrow(
        `LEANEDGE_TEXT_INTERVAL_MS_MAX is "${ms}"; it must be a whole number from 0 to 1000`,
      );
    }
  });

  it("reads how many objects share the sessions", () => {
    const read = (LEANEDGE_SESSION_OBJECTS: string) =>
      parseConfig({ LEANEDGE_SESSION_OBJECTS }).sessionObjects;
    expect(parseConfig({}).sessionObjects).toBe(0);
    expect([read(""), read("0"), read("16"), read("1024")]).toEqual([0, 0, 16, 1024]);
    expect(() => read("1025")).toThrow(
      'LEANEDGE_SESSION_OBJECTS is "1025"; it must be a whole number from 0 to 1024',
    );
  });

  it("reads fallbacks, which answer unasked unless the configuration says otherwise", () => {
    const { models } = parseConfig({
      LEANEDGE_MODELS: [
        { model: "a", engines: 0, fallback: "c" },
        { model: "b", fallback: { model: "c", unasked: false } },
        { model: "c" },
      ],
    });
    expect(models.map(({ engines, fallback }) => ({ engines, fallback }))).toEqual([
      { engines: 0, fallback: { model: "c", unasked: true } },
      { engines: 1, fallback: { model: "c", unasked: false } },
      { engines: 1, fallback: undefined },
    ]);
  });

  it("gives no engine to a model that only workers have", () => {
    const { models } = parseConfig({ LEANEDGE_WORKERS: "a=http://w:1" });
    expect(models.map(({ model, engines }) => [model, engines])).toEqual([
      [embeddedModel.model, 1],
      ["a", 0],
    ]);
  });

  it("reads pools in their order, one by default", () => {
    expect(parseConfig({}).pools).toEqual([{ name: "default", location: undefined }]);
    expect(parseConfig({ LEANEDGE_POOLS: "eu@weur, us" }).pools).toEqual([
      { name: "eu", location: "weur" },
      { name: "us", location: undefined },
    ]);
  });

  it.each([
    ["eu@mars", 'LEANEDGE_POOLS[0] is "eu@mars"; it must read NAME or NAME@LOCATION'],
    ["eu,", 'LEANEDGE_POOLS[1] is ""; it must read NAME or NAME@LOCATION'],
    ["a/b", 'LEANEDGE_POOLS[0] is "a/b"; it must read'],
    ["eu,eu@weur", 'LEANEDGE_POOLS names the pool "eu" twice'],
    [Array<string>(17).fill("p").join(","), "LEANEDGE_POOLS has 17 pools, at most 16"],
  ])("refuses the pools %s", (text, message) => {
    expect(() => parseConfig({ LEANEDGE_POOLS: text })).toThrow(message);
  });

  it.each(["LEANEDGE_POOL_TOKEN", "LEANEDGE_ADMIN_TOKEN"])(
    "wants a %s that nobody guesses, and never repeats it",
    (variable) => {
      for (const token of ["short", "with a space in the middle", "x".repeat(4_097)]) {
        let message = "";
        try {
          parseConfig({ [variable]: token });
        } catch (error) {
          message = error instanceof Error ? error.message : "";
        }
        expect(message).toBe(`${variable} must have 16 to 4096 visible ASCII characters`);
      }
      expect(() => parseConfig({ [variable]: "sixteen-chars-ok" })).not.toThrow();
    },
  );

  it("finds models by id, and the default one without", () => {
    const config = parseConfig({ LEANEDGE_MODELS: [{ model: "a" }, { model: "b" }] });
    expect(findModel(config, "")?.model).toBe("a");
    expect(findModel(config, "b")?.model).toBe("b");
    expect(findModel(config, "c")).toBeUndefined();
  });
});
