/** SHA-256 by WebCrypto, which Workers, Node and browsers share. */

/** SHA-256 of `bytes`, 32 bytes. */
export async function sha256(bytes: Uint8Array<ArrayBuffer>): Promise<Uint8Array<ArrayBuffer>> {
  return new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
}

/** SHA-256 of `bytes` in lower-case hexadecimal, 64 characters. */
export async function sha256Hex(bytes: Uint8Array<ArrayBuffer>): Promise<string> {
  return toHex(await sha256(bytes));
}

/** Bytes as lower-case hexadecimal. */
export function toHex(bytes: Uint8Array): string {
  let text = "";
  for (const byte of bytes) text += byte.toString(16).padStart(2, "0");
  return text;
}

/**
 * The bytes that 64 lower-case hexadecimal digits name.
 *
 * @throws RangeError for anything else
 */
export function fingerprintBytes(hex: string): Uint8Array<ArrayBuffer> {
  if (!/^[0-9a-f]{64}$/.test(hex)) {
    throw new RangeError(`fingerprint is "${hex.slice(0, 80)}", must be 64 hexadecimal digits`);
  }
  return Uint8Array.from({ length: 32 }, (_, index) =>
    parseInt(hex.slice(index * 2, index * 2 + 2), 16),
  );
}
