import { readFile } from "node:fs/promises";
import { expect, it } from "vitest";
import { EngineError, engineStatus, engineStatusName } from "./status.js";

const header = new URL("../../engine/include/leanedge/status.h", import.meta.url);

it("names and values are those of status.h", async () => {
  const text = await readFile(header, "utf8");
  const body = /enum class Status : int32_t \{([^}]*)\}/.exec(text)?.[1] ?? "";
  const table = [...body.matchAll(/\bk(\w+) = (-?\d+)/g)].map(
    ([, name = "", value]) =>
      [name.charAt(0).toLowerCase() + name.slice(1), Number(value)] as const,
  );
  expect(table.length).toBeGreaterThan(10);
  expect(engineStatus).toEqual(Object.fromEntries(table));
});

it("a value gives back its name, and values outside the table give none", () => {
  expect(engineStatusName(0)).toBe("ok");
  expect(engineStatusName(-6)).toBe("contextFull");
  expect(engineStatusName(-13)).toBeUndefined();
  expect(engineStatusName(1)).toBeUndefined();
});

it("an EngineError says what, which value and which bound", () => {
  const error = new EngineError("contextFull", "4097 tokens, at most 4096", 4097, 4096);
  expect(error).toBeInstanceOf(Error);
  expect(error.name).toBe("EngineError");
  expect([error.status, error.value, error.bound]).toEqual(["contextFull", 4097, 4096]);
  const bare = new EngineError("wrongState", "closed");
  expect([bare.value, bare.bound]).toEqual([0, 0]);
});
