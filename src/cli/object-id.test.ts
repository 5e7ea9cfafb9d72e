import { expect, it } from "vitest";
import { objectId } from "./object-id.js";

it("is what workerd gave the same names", () => {
  expect(objectId("leanedge-SessionObject", "dev/kept%20before")).toBe(
    "a783e4e51cd049b0b5e7b3a6bdf60c1e008578e176896361dcac9066b6abc7bc",
  );
  expect(objectId("leanedge-PoolObject", "default")).toBe(
    "2e07b842fc4beb3935e1b9b63e89a4bb3f1ae921c30b341f6c8891bafe8d8512",
  );
});
