/**
 * Page tokens: opaque to clients, and told from anything that is not ours by a checksum. No secret is needed: whatever a
 * token can ask for, its holder may read anyway.
 */
import { invalidArgument } from "../errors.js";
import { pageTokenCharsMax } from "../limits.js";

/** Writes the position of a page's end. `kind` keeps tokens of one list out of another. */
export function writePageToken(kind: string, position: readonly (string | number)[]): string {
  const body = JSON.stringify(position);
  const text = new TextEncoder().encode(`${checksum(kind + body)}${body}`);
  return btoa(String.fromCharCode(...text))
    .replaceAll("+", "-")
    .replaceAll("/", "_")
    .replace(/=+$/, "");
}

/** Reads a token of this kind. Throws INVALID_ARGUMENT unless writePageToken made it. */
export function readPageToken(kind: string, token: string): readonly unknown[] {
  const refusal = invalidArgument("page_token was not given out by this list");
  if (token.length > pageTokenCharsMax || !/^[A-Za-z0-9_-]+$/.test(token)) {
    throw refusal;
  }
  let text: string;
  let position: unknown;
  try {
    const binary = atob(token.replaceAll("-", "+").replaceAll("_", "/"));
    const bytes = Uint8Array.from(binary, (char) => char.charCodeAt(0));
    text = new TextDecoder("utf-8", { fatal: true, ignoreBOM: false }).decode(bytes);
    position = JSON.parse(text.slice(checksumChars));
  } catch {
    // Bytes that are no base64, no UTF-8 or no JSON are simply not ours.
    throw refusal;
  }
  if (
    !Array.isArray(position) ||
    text.slice(0, checksumChars) !== checksum(kind + text.slice(checksumChars))
  ) {
    throw refusal;
  }
  return position;
}

const checksumChars = 8;

/** FNV-1a, 32 bits, in hexadecimal. */
function checksum(text: string): string {
  let hash = 0x811c9dc5;
  for (let index = 0; index < text.length; index++) {
    hash = Math.imul(hash ^ text.charCodeAt(index), 0x01000193);
  }
  return (hash >>> 0).toString(16).padStart(checksumChars, "0");
}
