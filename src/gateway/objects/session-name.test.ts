import { describe, expect, it } from "vitest";
import { seededRandom } from "../pool/testing/seeded-random.js";
import { readSessionCall, sessionObjectName, writeSessionCall } from "./session-name.js";

describe("the name of a session's object", () => {
  it("keeps tenants apart whatever characters ids hold", () => {
    const pairs = [
      ["a", "b/c"],
      ["a/b", "c"],
      ["a", "b%2Fc"],
      ["a%2Fb", "c"],
      ["", "a/b/c"],
      ["a/b/c", ""],
      ["ä", "b"],
      ["a", "🙂"],
    ] as const;
    const names = pairs.map(([tenant, sessionId]) => sessionObjectName(tenant, sessionId));
    expect(new Set(names).size).toBe(pairs.length);
  });
});

describe("any two sessions", () => {
  const random = seededRandom(20_261_122);
  /** Bytes in UTF-8 of an id at its longest. */
  const bytesMax = 256;
  /** Characters that separate, escape, sort or look alike, of one to four bytes. */
  const alphabet = [
    "a",
    "b",
    "/",
    "%",
    "2",
    "F",
    ".",
    "~",
    " ",
    "\n",
    "\u0000",
    "ä",
    "a\u0308",
    "中",
    "🙂",
  ];

  function id(bytes: number): string {
    let text = "";
    for (;;) {
      const next = text + (alphabet[Math.floor(random() * alphabet.length)] ?? "");
      if (new TextEncoder().encode(next).length > bytes) return text;
      text = next;
    }
  }

  /** The same id but for one character, or with one more or less at an end. */
  function nearly(text: string): string {
    const characters = [...text];
    const at = Math.floor(random() * (characters.length + 1));
    characters.splice(at, Math.floor(random() * 2), alphabet[at % alphabet.length] ?? "");
    return characters.join("");
  }

  it("share an object only if tenant and id are the same, byte for byte, up to 256 bytes", () => {
    const seen = new Map<string, string>();
    for (let round = 0; round < 1_000; round++) {
      const tenant = id(1 + Math.floor(random() * 64));
      const session = id(round % 4 === 0 ? bytesMax : 1 + Math.floor(random() * 12));
      for (const [a, b] of [
        [tenant, session],
        [tenant, nearly(session)],
        [nearly(tenant), session],
        [session, tenant],
        [`${tenant}/`, session],
        [tenant, `/${session}`],
      ] as const) {
        const pair = JSON.stringify([a, b]);
        const name = sessionObjectName(a, b);
        if ((seen.get(name) ?? pair) !== pair) throw new Error(`${pair} has the object of another`);
        seen.set(name, pair);
        const call = { method: "Generate", tenant: a, sessionId: b, requestId: "r" };
        const read = readSessionCall(writeSessionCall({ ...call, idempotencyKey: "" }));
        if (read.tenant !== a || read.sessionId !== b) throw new Error(`${pair} was not carried`);
      }
    }
    expect(seen.size).toBeGreaterThan(2_500);
  });
});

describe("the header of a call", () => {
  it("carries every character, and is ASCII", () => {
    const call = {
      method: "Generate",
      tenant: "a&b=c",
      sessionId: "ä/ ?#%\n\u0000🙂",
      requestId: "r+1",
      idempotencyKey: "k 2",
    };
    expect(writeSessionCall(call)).toMatch(/^[\x20-\x7e]+$/);
    expect(readSessionCall(writeSessionCall(call))).toEqual({
      ...call,
      key: undefined,
      again: false,
      form: "frames",
    });
    const rest = { form: "usage", timeoutMs: 1_500, again: true } as const;
    const key = { keyId: "k", limits: { turns: 2 } };
    expect(readSessionCall(writeSessionCall({ ...call, ...rest, key }))).toEqual({
      ...call,
      ...rest,
      key,
    });
  });
});
