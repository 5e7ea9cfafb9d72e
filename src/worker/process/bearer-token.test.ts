import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Code, ConnectError, type HandlerContext } from "@connectrpc/connect";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { readTokenFile, requireToken } from "./bearer-token.js";

const token = "a-token-of-some-length";

function shows(authorization: string | undefined): HandlerContext {
  const requestHeader = new Headers(authorization === undefined ? {} : { authorization });
  return { requestHeader } as HandlerContext;
}

describe("requireToken", () => {
  it("lets its token pass", () => {
    expect(() => requireToken(token)(shows(`Bearer ${token}`))).not.toThrow();
  });

  it.each([
    undefined,
    "",
    token,
    `bearer ${token}`,
    `Bearer ${token}x`,
    `Bearer ${token.slice(1)}`,
  ])("refuses %s", (shown) => {
    const refused = expect(() => requireToken(token)(shows(shown)));
    refused.toThrow(ConnectError);
    refused.toThrow(expect.objectContaining({ code: Code.Unauthenticated }));
  });

  it("never repeats what was shown", () => {
    expect(() => requireToken(token)(shows("Bearer secret-of-another"))).toThrow(
      "[unauthenticated] the bearer token is not this worker's",
    );
  });
});

describe("readTokenFile", () => {
  let folder: string;
  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), "leanedge-token-"));
  });
  afterAll(() => rm(folder, { recursive: true }));

  async function read(content: string): Promise<string> {
    const path = join(folder, "token");
    await writeFile(path, content);
    return readTokenFile(path);
  }

  it("reads a token without the space around it", async () => {
    expect(await read(`\n ${token}\r\n`)).toBe(token);
  });

  it.each([
    ["", "a token of 0 characters, it must have 16 to 4096"],
    ["short", "a token of 5 characters"],
    ["x".repeat(4097), "a token of 4097 characters"],
    ["two words are no token", "characters other than visible ASCII"],
    ["tokén-with-an-accent", "characters other than visible ASCII"],
  ])("refuses %j", async (content, message) => {
    await expect(read(content)).rejects.toThrow(message);
  });

  it("says which file is missing", async () => {
    await expect(readTokenFile(join(folder, "none"))).rejects.toThrow("none");
  });
});
