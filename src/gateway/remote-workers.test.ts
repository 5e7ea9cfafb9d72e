import { describe, expect, it } from "vitest";
import { embeddedModel, parseConfig } from "./config.js";
import { parseRemoteWorkers } from "./remote-workers.js";

describe("parseRemoteWorkers()", () => {
  it("reads the workers of each model in order", () => {
    const workers = parseRemoteWorkers(
      "a=http://10.0.0.1:9000, b=https://w.example,a=http://10.0.0.2:9000/",
    );
    expect([...workers]).toEqual([
      ["a", ["http://10.0.0.1:9000", "http://10.0.0.2:9000"]],
      ["b", ["https://w.example"]],
    ]);
    expect(parseRemoteWorkers(undefined).size).toBe(0);
  });

  it.each([
    ["a", "must read MODEL=URL"],
    ["a=", "must read MODEL=URL"],
    ["=http://h", "must read MODEL=URL"],
    ["a=ftp://h", "must read MODEL=URL"],
    ["a=h:9000", "must read MODEL=URL"],
    ["a=http://h,", "LEANEDGE_WORKERS[1]"],
    ["a=http://h/path", "a host and a port, and nothing else"],
    ["a=http://u:p@h", "a host and a port, and nothing else"],
    ["a=http://h:1,a=http://h:1/", 'names http://h:1 twice for model "a"'],
    [
      Array.from({ length: 257 }, (_, i) => `a=http://h:${i + 1}`).join(),
      "257 workers, at most 256",
    ],
  ])("refuses %s", (text, message) => {
    expect(() => parseRemoteWorkers(text)).toThrow(message);
  });
});

describe("parseConfig() with workers", () => {
  it("serves models that only workers have after those of its own", () => {
    const config = parseConfig({
      LEANEDGE_WORKERS: "big=http://h:1",
      LEANEDGE_WORKER_TOKEN: "secret",
    });
    expect(config.models.map(({ model }) => model)).toEqual([embeddedModel.model, "big"]);
    expect(config.workers.get("big")).toEqual(["http://h:1"]);
    expect(config.workerToken).toBe("secret");
  });

  it("does not list a model twice that a worker serves in place of an engine", () => {
    const config = parseConfig({ LEANEDGE_WORKERS: `${embeddedModel.model}=http://h:1` });
    expect(config.models.map(({ model }) => model)).toEqual([embeddedModel.model]);
  });
});
