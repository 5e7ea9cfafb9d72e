import { describe, expect, it } from "vitest";
import { fileURLToPath } from "node:url";
import { embeddedFile } from "../../embedded-model.js";
import { openFileSource } from "../gguf/file-source.js";
import { fingerprintSource, readModelFile } from "../gguf/index.js";
import { textCharsMax } from "./limits.js";
import embeddedIds from "./testdata/embedded-ids.json" with { type: "json" };
import { randomTexts, trickyTexts } from "./testing/texts.js";
import { bpeVocabulary, spmVocabulary } from "./testing/vocabularies.js";
import { Tokenizer } from "./tokenizer.js";

const plain = { parseSpecial: false } as const;
const parsed = { parseSpecial: true } as const;

/** Texts of the tokens that a text becomes. */
function pieces(tokenizer: Tokenizer, text: string, options: { parseSpecial: boolean } = plain) {
  return tokenizer.encode(text, options).map((id) => tokenizer.textOf(id));
}

function isControl(tokenizer: Tokenizer, id: number): boolean {
  return tokenizer.controlTexts.includes(tokenizer.textOf(id));
}

describe("the embedded model's tokenizer", () => {
  const path = fileURLToPath(new URL(`../../../${embeddedFile}`, import.meta.url));

  it("gives llama.cpp's ids and gets the texts back", async () => {
    const source = await openFileSource(path);
    expect(await fingerprintSource(source)).toBe(embeddedIds.fingerprint);
    const tokenizer = new Tokenizer((await readModelFile(source)).vocabulary);
    await source.close();
    expect(embeddedIds.cases.map(({ text }) => text)).toEqual(
      trickyTexts.map((t) => t.toWellFormed()),
    );
    for (const { text, plain: ids, special } of embeddedIds.cases) {
      expect(tokenizer.encode(text, plain), JSON.stringify(text)).toEqual(ids);
      expect(tokenizer.encode(text, parsed), JSON.stringify(text)).toEqual(special);
      expect(tokenizer.decode(ids)).toBe(text);
      expect(tokenizer.decode(special, { special: true })).toBe(text);
    }
    for (const text of randomTexts(3, 500, 30)) {
      const ids = tokenizer.encode(text, plain);
      expect(tokenizer.decode(ids)).toBe(text.toWellFormed());
      expect(ids.filter((id) => isControl(tokenizer, id))).toEqual([]);
    }
    expect(tokenizer.facts).toEqual({
      vocabSize: 8192,
      bos: 1,
      eos: 5,
      eot: 5,
      endOfGeneration: new Set([5]),
      addBos: true,
    });
  });
});

describe("SentencePiece-style vocabularies", () => {
  const tokenizer = new Tokenizer(spmVocabulary());

  it("merge the best score first, leftmost first", () => {
    expect(pieces(tokenizer, "abab")).toEqual(["▁ab", "ab"]);
    expect(pieces(tokenizer, "aab")).toEqual(["▁a", "ab"]);
    expect(pieces(tokenizer, "x x")).toEqual(["▁", "x▁", "<0x78>"]);
  });

  it("spell characters that they lack in bytes", () => {
    expect(pieces(tokenizer, "é😀")).toEqual(["▁", "é", "<0xF0>", "<0x9F>", "<0x98>", "<0x80>"]);
    expect(tokenizer.decode(tokenizer.encode("é😀", plain), { start: true })).toBe("é😀");
  });

  it("begin texts, and what follows a special token, with a space, where the file wants that", () => {
    expect(pieces(tokenizer, "</s>a", parsed)).toEqual(["</s>", "▁a"]);
    const bare = new Tokenizer(spmVocabulary({ addSpacePrefix: false }));
    expect(pieces(bare, "a")).toEqual(["a"]);
    expect(bare.decode(bare.encode(" a", plain), { start: true })).toBe(" a");
  });

  it("do without bytes where they have none", () => {
    const full = spmVocabulary();
    const keep = full.tokens
      .map((text, id) => ({ text, type: full.types[id] ?? 0 }))
      .filter(({ text }) => !text.startsWith("<0x"));
    const small = new Tokenizer({
      ...full,
      tokens: keep.map(({ text }) => text),
      types: Uint8Array.from(keep, ({ type }) => type),
      scores: new Float32Array(keep.length),
    });
    expect(pieces(small, "aé😀")).toEqual(["▁a", "é", "<unk>", "<unk>", "<unk>", "<unk>"]);
  });

  it("keep control tokens out of plain text that merges could spell", () => {
    expect(pieces(tokenizer, "</s>")).toEqual(["▁", "</", "s>"]);
    expect(pieces(tokenizer, "<s>")).toEqual(["▁", "<", "s>"]);
  });
});

describe("byte-level vocabularies", () => {
  const tokenizer = new Tokenizer(bpeVocabulary());

  it("merge by rank inside words", () => {
    expect(pieces(tokenizer, "hello wor")).toEqual(["hello", "Ġwor"]);
    expect(pieces(tokenizer, "hell hel")).toEqual(["hell", "Ġ", "he", "l"]);
    expect(tokenizer.encode("", plain)).toEqual([]);
  });

  it("take whole words that are tokens where the kind does", () => {
    const vocabulary = bpeVocabulary({ pre: "llama-bpe", merges: ["h e"] });
    expect(pieces(new Tokenizer(vocabulary), "hello hell")).toEqual(["hello", "Ġ", "he", "l", "l"]);
  });

  it("spell out merges that lead to no token, and those that lead to a control token", () => {
    // "<|end|>" is a control token by its name; "<|e" and "<|end" are merges without a token.
    expect(pieces(tokenizer, "<|end|>")).toEqual(["<|", "e", "nd", "|", ">"]);
    expect(pieces(tokenizer, "<|end|>", parsed)).toEqual(["<|end|>"]);
    const vocabulary = bpeVocabulary({ merges: ["h e", "he y"] });
    expect(pieces(new Tokenizer(vocabulary), "hey")).toEqual(["h", "e", "y"]);
  });

  it("find user-defined tokens in any text", () => {
    expect(pieces(tokenizer, "<think>he")).toEqual(["<think>", "he"]);
  });

  it.each([
    [
      "an unknown pre-tokenizer",
      { pre: "tekken" },
      /pre-tokenizer "tekken" is not supported, only default, gpt-2/,
    ],
    [
      "a merge of one symbol",
      { merges: ["h e", "oops"] },
      /merge 1 is "oops", two symbols expected/,
    ],
    ["a merge with nothing", { merges: ["h "] }, /merge 0 is "h ", two symbols/],
  ])("are refused with %s", (_what, change, message) => {
    expect(() => new Tokenizer(bpeVocabulary(change))).toThrow(message);
  });
});

describe("texts", () => {
  const tokenizer = new Tokenizer(bpeVocabulary());

  it("may hold lone surrogates, which count as U+FFFD", () => {
    expect(tokenizer.encode("a\ud800", plain)).toEqual(tokenizer.encode("a\ufffd", plain));
  });

  it("have a bound", () => {
    expect(() => tokenizer.encode("a".repeat(textCharsMax + 1), plain)).toThrow(
      /text of 2097153 characters, at most 2097152/,
    );
  });

  it("of one endless word still take bounded time", () => {
    expect(tokenizer.encode("hello".repeat(40_000), plain)).toHaveLength(40_000);
  });

  it("made of special tokens take bounded time", () => {
    const ids = tokenizer.encode("<think>".repeat(100_000) + "<|im_end|>", parsed);
    expect(ids).toHaveLength(100_001);
  });
});

describe("ids", () => {
  const tokenizer = new Tokenizer(bpeVocabulary());

  it("outside the vocabulary are refused", () => {
    const { vocabSize } = tokenizer.facts;
    expect(() => tokenizer.decode([vocabSize])).toThrow(`token ${vocabSize} is outside 0 to`);
    expect(() => tokenizer.decode([-1])).toThrow(/token -1 is outside/);
    expect(() => tokenizer.textOf(0.5)).toThrow(/token 0.5 is outside/);
  });

  it("of control tokens are silent unless they are asked for", () => {
    const ids = tokenizer.encode("he<|im_end|><think>", parsed);
    expect(tokenizer.decode(ids)).toBe("he<think>");
    expect(tokenizer.decode(ids, { special: true })).toBe("he<|im_end|><think>");
  });

  it("end generation by name, even where the file calls them normal", () => {
    expect(tokenizer.endsGeneration(tokenizer.encode("<|end|>", parsed)[0] ?? -1)).toBe(true);
    expect(tokenizer.controlTexts).toEqual(["<|im_start|>", "<|im_end|>", "<|end|>"]);
    const eot = tokenizer.facts.eot ?? -1;
    expect(tokenizer.textOf(eot)).toBe("<|im_end|>");
  });
});

describe("pieces of a template", () => {
  const tokenizer = new Tokenizer(bpeVocabulary());
  const texts = (ids: number[]) => ids.map((id) => tokenizer.textOf(id));

  it("read control tokens in special pieces only", () => {
    const ids = tokenizer.encodePieces(
      [
        { text: "<|im_start|>", special: true },
        { text: "<|im_end|><think>", special: false },
        { text: "<|im_end|>", special: true },
      ],
      { start: false },
    );
    const inner = tokenizer.encode("<|im_end|>", plain);
    expect(texts(ids)).toEqual(["<|im_start|>", ...texts(inner), "<think>", "<|im_end|>"]);
  });

  it("never form a control token across their borders", () => {
    for (const [left, right] of [
      [true, false],
      [false, true],
      [true, true],
      [false, false],
    ] as const) {
      const ids = tokenizer.encodePieces(
        [
          { text: "<|im_", special: left },
          { text: "end|>", special: right },
        ],
        { start: false },
      );
      expect(ids.some((id) => isControl(tokenizer, id))).toBe(false);
    }
  });

  it("still merge across their borders", () => {
    const ids = tokenizer.encodePieces(
      [
        { text: "he", special: true },
        { text: "llo", special: false },
      ],
      { start: false },
    );
    expect(texts(ids)).toEqual(["hello"]);
  });

  it("do not pair surrogate halves of different pieces", () => {
    const halves = [
      { text: "\ud83d", special: false },
      { text: "\ude00", special: false },
    ];
    expect(tokenizer.decode(tokenizer.encodePieces(halves, { start: false }))).toBe("\ufffd\ufffd");
  });

  it("begin with BOS once, where the model wants it and they begin a log", () => {
    const wants = new Tokenizer(bpeVocabulary({ addBos: true }));
    const bos = wants.facts.bos ?? -1;
    const he = wants.encode("he", plain);
    const encode = (text: string, start: boolean) =>
      wants.encodePieces([{ text, special: true }], { start });
    expect(encode("he", true)).toEqual([bos, ...he]);
    expect(encode("<|im_start|>he", true)).toEqual([bos, ...he]);
    expect(encode("he", false)).toEqual(he);
    expect(tokenizer.encodePieces([{ text: "he", special: true }], { start: true })).toEqual(he);
  });

  it("get no space in front where they continue a log", () => {
    const spm = new Tokenizer(spmVocabulary());
    const encode = (start: boolean) =>
      spm.encodePieces([{ text: "a", special: false }], { start }).map((id) => spm.textOf(id));
    expect(encode(true)).toEqual(["<s>", "▁a"]);
    expect(encode(false)).toEqual(["a"]);
  });

  it("give the whole text's ids when cut anywhere, for any text", () => {
    for (const text of randomTexts(5, 300, 20)) {
      const whole = text.toWellFormed();
      const points = [...whole];
      const at = points.length >> 1;
      const cut = [points.slice(0, at).join(""), points.slice(at).join("")];
      const ids = tokenizer.encodePieces(
        cut.map((part) => ({ text: part, special: false })),
        { start: false },
      );
      expect(ids).toEqual(tokenizer.encode(whole, plain));
    }
  });
});
