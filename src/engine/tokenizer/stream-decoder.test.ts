import { describe, expect, it } from "vitest";
import { StreamDecoder } from "./stream-decoder.js";
import { randomTexts } from "./testing/texts.js";
import { bpeVocabulary, spmVocabulary } from "./testing/vocabularies.js";
import { Tokenizer } from "./tokenizer.js";

const bpe = new Tokenizer(bpeVocabulary());

describe("a stream decoder", () => {
  it("gives characters when they are whole", () => {
    const decoder = new StreamDecoder(bpe);
    const ids = bpe.encode("a😀b", { parseSpecial: false });
    expect(ids.map((id) => decoder.push(id))).toEqual(["a", "", "", "", "😀", "b"]);
    expect(decoder.flush()).toBe("");
  });

  it("gives U+FFFD for what never became a character", () => {
    const decoder = new StreamDecoder(bpe);
    const bytes = bpe.encode("😀", { parseSpecial: false });
    expect(bytes.slice(0, 3).map((id) => decoder.push(id))).toEqual(["", "", ""]);
    expect(decoder.flush()).toBe("\ufffd");
    const broken = new StreamDecoder(bpe);
    expect(bytes.slice(0, 1).map((id) => broken.push(id))).toEqual([""]);
    expect(broken.push(97)).toBe("\ufffda");
  });

  it("keeps a byte order mark", () => {
    const decoder = new StreamDecoder(bpe);
    const ids = bpe.encode("\ufeffa", { parseSpecial: false });
    expect(ids.map((id) => decoder.push(id)).join("")).toBe("\ufeffa");
  });

  it("adds up to the whole text, for any text and model", () => {
    const spm = new Tokenizer(spmVocabulary());
    for (const tokenizer of [bpe, spm]) {
      for (const text of randomTexts(9, 300, 20)) {
        const ids = tokenizer.encode(text, { parseSpecial: true });
        for (const options of [{}, { special: true }, { special: true, start: true }]) {
          const decoder = new StreamDecoder(tokenizer, options);
          const parts = [...ids.map((id) => decoder.push(id)), decoder.flush()];
          expect(parts.join("")).toBe(tokenizer.decode(ids, options));
          expect(parts.every((part) => part.isWellFormed())).toBe(true);
        }
        const all = tokenizer.decode(ids, { special: true, start: true });
        if (tokenizer === bpe) expect(all).toBe(text.toWellFormed());
      }
    }
  });

  it("takes the first space of a text away where encoding put it there", () => {
    const spm = new Tokenizer(spmVocabulary());
    const ids = spm.encode("ab ab", { parseSpecial: false });
    const decoder = new StreamDecoder(spm, { start: true });
    expect(ids.map((id) => decoder.push(id)).join("")).toBe("ab ab");
    const later = new StreamDecoder(spm);
    expect(ids.map((id) => later.push(id)).join("")).toBe(" ab ab");
  });
});
