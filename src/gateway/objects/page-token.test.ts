import { Code } from "@connectrpc/connect";
import { describe, expect, it } from "vitest";
import { pageTokenCharsMax, sessionIdBytesMax } from "../limits.js";
import { readPageToken, writePageToken } from "./page-token.js";

describe("a page token", () => {
  it("gives back the position it was made of, whatever it holds", () => {
    for (const position of [[0], [1_700_000_000_000, "sesión/🙂"], ["", 5, "\u0000"]]) {
      const token = writePageToken("list", position);
      expect(token).toMatch(/^[A-Za-z0-9_-]+$/);
      expect(readPageToken("list", token)).toEqual(position);
    }
  });

  it("is never longer than what is read, whatever the id of a session is made of", () => {
    for (const id of ['"'.repeat(sessionIdBytesMax), "\\".repeat(sessionIdBytesMax)]) {
      const position = [Number.MAX_SAFE_INTEGER, id];
      expect(readPageToken("sessions", writePageToken("sessions", position))).toEqual(position);
    }
  });

  it("is refused by another list, and whenever a character of it is changed", () => {
    const token = writePageToken("list", [42, "a session"]);
    const refusal = {
      code: Code.InvalidArgument,
      rawMessage: "page_token was not given out by this list",
    };
    expect(() => readPageToken("other", token)).toThrow(expect.objectContaining(refusal));
    // The last character carries unused bits, so that a change there may mean the same.
    for (let index = 0; index < token.length - 1; index++) {
      const other = token[index] === "A" ? "B" : "A";
      const changed = token.slice(0, index) + other + token.slice(index + 1);
      expect(() => readPageToken("list", changed)).toThrow(expect.objectContaining(refusal));
    }
    for (const bad of ["", "=", "a b", "A".repeat(pageTokenCharsMax + 1)]) {
      expect(() => readPageToken("list", bad)).toThrow(expect.objectContaining(refusal));
    }
  });
});
