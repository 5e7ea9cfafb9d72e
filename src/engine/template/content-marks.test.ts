import { describe, expect, it } from "vitest";
import { chooseMarks, markNames, markWhole, readMarks } from "./content-marks.js";

const marks = { open: "{", close: "}", answer: "@" };
const names = ["<|end|>", "<|end|>x", "[A]"];

describe("marks", () => {
  it("are characters that no text uses", () => {
    expect(chooseMarks(["a\ufdd0", "\ufdd2"])).toEqual({
      open: "\ufdd1",
      close: "\ufdd3",
      answer: "\ufdd4",
    });
  });

  it("go around a message but for the white space at its ends", () => {
    expect(markWhole("\n a b ", marks)).toBe("\n {a b} ");
    expect(markWhole(" \n", marks)).toBe(" \n");
    expect(markWhole("", marks)).toBe("");
  });

  it("go around names of control tokens, the longest first", () => {
    expect(markNames("a<|end|>b<|end|>x[A]", marks, names)).toBe("a{<|end|>}b{<|end|>x}{[A]}");
    expect(markNames("plain", marks, names)).toBe("plain");
    expect(markNames("a.b*", marks, [])).toBe("a.b*");
  });

  it("make seams where a name could be completed from outside, white space trimmed or not", () => {
    expect(markNames("d|> text [", marks, names)).toBe("{}d|> text [{}");
    expect(markNames("  <|end  ", marks, names)).toBe("  <|end{}  ");
  });

  it("are read back as pieces", () => {
    expect(readMarks("a{b}c{}d", marks)).toEqual([
      { text: "a", special: true },
      { text: "b", special: false },
      { text: "c", special: true },
      { text: "d", special: true },
    ]);
    expect(readMarks("", marks)).toEqual([]);
  });

  it.each(["a}b", "a{b", "{a{b}}", "}{"])("that do not pair give nothing: %s", (rendered) => {
    expect(readMarks(rendered, marks)).toBeUndefined();
  });
});
