/** Texts that tell tokenizers apart. Written for this; used by golden ids and by tests against peers. */

/** Fixed texts. */
export const trickyTexts: readonly string[] = [
  "",
  " ",
  "   ",
  "a",
  "Hello world",
  "Hello, world! It's 2024; they'll say we've, I'm, you'd: 'S 'LL DON'T O'Neil's",
  "\n",
  "\n\n\n",
  "\r\n \r\n\t\t x",
  "   leading and trailing   ",
  "a   b\n\n  c \n d\t\te",
  "1234567890 12 3.14 1,000,000 0x1F ½ ⅷ ² ١٢٣",
  "é è ü ñ ÅÅ á̈ Straße ŒUVRE",
  "日本語のテキスト。中文 한국어 ไทย हिन्दी العربية מזל",
  "😀 👨‍👩‍👧‍👦 🏳️‍🌈 a😀b 👍🏽",
  "def f(x):\n    return x**2  # comment\n\tif a != b && c: pass\n",
  'for (let i = 0; i <= 10; i++) { console.log(`${i}`, "x\\n"); }',
  "<s>hi</s><unk><0x0A><|im_start|>user\nhi<|im_end|>\n<|endoftext|><|bos|><|end|><|eot_id|>",
  "<|im_",
  "|im_end|>",
  "<<|end|>>",
  "<|end|",
  "</s",
  "\u00a0\u2003\u3000x\u0085y\ufeffz\u200bq",
  "\ud800",
  "a\udc00b",
  "\u0000\u0001\u001f\u007f",
  "▁a ▁ b▁▁",
  "Ġa Ċ",
  "x".repeat(300),
  " ".repeat(70) + "x",
  "ab".repeat(150),
  "!?".repeat(60) + "...",
  "http://example.org/a_b?c=d&e=%20#f <b>bold</b> user@example.com",
];

const alphabet: readonly string[] = [
  ...Array.from("abcdefghijklmnopqrstuvwxyzEIST0123456789"),
  ...Array.from(" ".repeat(12)),
  ...Array.from("\n\t.,;:!?'\"()-_<>|/\\$#"),
  ...[
    "'s",
    "'LL",
    "\r\n",
    "  ",
    " the",
    "ing",
    "é",
    "ß",
    "日",
    "한",
    "😀",
    "\u0301",
    "\u00a0",
    "\u3000",
  ],
  ...["<|im_end|>", "<|end|>", "<|", "|>", "</s>", "<s>", "\ud83d", "\ude00", "½", "٣", "▁", "Ġ"],
];

/** `count` random texts of 0 to `partsMax` parts, the same for the same seed. */
export function randomTexts(seed: number, count: number, partsMax: number): string[] {
  let state = seed;
  const below = (bound: number): number => {
    // A linear congruential generator; its high bits are good enough to pick parts.
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
    return Math.floor((state / 2 ** 32) * bound);
  };
  return Array.from({ length: count }, () =>
    Array.from({ length: below(partsMax + 1) }, () => alphabet[below(alphabet.length)] ?? "").join(
      "",
    ),
  );
}
