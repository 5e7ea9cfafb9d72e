/**
 * The alphabet in which byte-level BPE writes bytes as text: printable Latin-1 bytes stand for
 * themselves, the other 68 for U+0100 and up, in order. From GPT-2's encoder; every `gpt2`
 * vocabulary is written in it.
 */

function isPrintable(byte: number): boolean {
  return (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte <= 0xff && byte !== 0xad);
}

/** The character of each byte. */
export const byteChars: readonly string[] = (() => {
  let next = 0x100;
  return Array.from({ length: 256 }, (_, byte) =>
    String.fromCharCode(isPrintable(byte) ? byte : next++),
  );
})();

const bytesByChar: ReadonlyMap<string, number> = new Map(
  byteChars.map((char, byte) => [char, byte]),
);

/** The byte of a character, or undefined outside the alphabet. */
export function byteOfChar(char: string): number | undefined {
  return bytesByChar.get(char);
}
