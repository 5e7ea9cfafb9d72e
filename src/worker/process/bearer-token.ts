/** The token that callers of a worker must show. */
import { createHash, timingSafeEqual } from "node:crypto";
import { readFile } from "node:fs/promises";
import { Code, ConnectError, type ConnectRouterOptions } from "@connectrpc/connect";
import { tokenCharsMax, tokenCharsMin } from "./limits.js";

/** Looks at a call before its body is read; throws to refuse it. */
export type RequestGate = NonNullable<ConnectRouterOptions["requestGate"]>;

/** What a header field carries without quoting (RFC 6750, b64token, and what people use besides). */
const tokenPattern = /^[\x21-\x7e]+$/;

/**
 * Reads a token from a file; space around it does not count.
 *
 * @throws Error if the file cannot be read, or holds no token
 */
export async function readTokenFile(path: string): Promise<string> {
  const token = (await readFile(path, "utf8")).trim();
  // The token itself stays out of every message.
  if (token.length < tokenCharsMin || token.length > tokenCharsMax) {
    throw new Error(
      `${path} holds a token of ${token.length} characters, it must have ${tokenCharsMin} to ${tokenCharsMax}`,
    );
  }
  if (!tokenPattern.test(token)) {
    throw new Error(`${path} holds a token with characters other than visible ASCII`);
  }
  return token;
}

/**
 * Refuses calls that do not show the token with UNAUTHENTICATED, before their body is read. Takes the same time
 * whatever they show: hashes of one length are compared.
 */
export function requireToken(token: string): RequestGate {
  const expected = digest(`Bearer ${token}`);
  return ({ requestHeader }) => {
    const shown = requestHeader.get("authorization");
    if (shown === null) {
      throw new ConnectError("this worker asks for a bearer token", Code.Unauthenticated);
    }
    if (!timingSafeEqual(digest(shown), expected)) {
      throw new ConnectError("the bearer token is not this worker's", Code.Unauthenticated);
    }
  };
}

function digest(text: string): Buffer {
  return createHash("sha256").update(text).digest();
}
