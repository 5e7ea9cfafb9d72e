/**
 * API keys and their hashes. A key is 256 random bits, so its plain SHA-256 cannot be guessed back however fast the hash
 * is; a slow hash protects passwords that people choose, and here it would only cost every request its time.
 */
import { sha256 } from "../sha256.js";

const keyBytes = 32;
const keyPrefix = "le-";

/** Draws a key. */
export function drawApiKey(): string {
  const bytes = crypto.getRandomValues(new Uint8Array(keyBytes));
  const text = btoa(String.fromCharCode(...bytes))
    .replaceAll("+", "-")
    .replaceAll("/", "_")
    .replace(/=+$/, "");
  return `${keyPrefix}${text}`;
}

/** Hash of a key: 32 bytes. */
export function hashApiKey(key: string): Uint8Array {
  return sha256(key);
}

/** Compares without telling by its time where two hashes part. */
export function equalInConstantTime(a: Uint8Array, b: Uint8Array): boolean {
  if (a.length !== b.length) {
    return false;
  }
  let difference = 0;
  for (let index = 0; index < a.length; index++) {
    difference |= (a[index] ?? 0) ^ (b[index] ?? 0);
  }
  return difference === 0;
}
