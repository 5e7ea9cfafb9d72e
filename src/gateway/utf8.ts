/** Sizes of text in UTF-8. */

const encoder = new TextEncoder();

/** Units up to which text is counted here: a call into the runtime costs as much as some hundred of them. */
const countedMax = 256;

/** Bytes that a text takes; a lone surrogate counts as the replacement character that is written for it. */
export function utf8Bytes(text: string): number {
  if (text.length > countedMax) {
    return encoder.encode(text).byteLength;
  }
  let bytes = text.length;
  for (let at = 0; at < text.length; at++) {
    const unit = text.charCodeAt(at);
    if (unit < 0x80) {
      continue;
    }
    if (unit < 0x800) {
      bytes += 1;
      continue;
    }
    bytes += 2;
    if (unit >= 0xd800 && unit < 0xdc00 && (text.charCodeAt(at + 1) & 0xfc00) === 0xdc00) {
      // A pair is two units and four bytes.
      at++;
    }
  }
  return bytes;
}
