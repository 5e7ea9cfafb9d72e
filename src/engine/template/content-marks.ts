/**
 * Keeps track of messages on their way through a template, which is a program and may do anything
 * with them: marks are put around what must stay plain text, and looked for in what comes out.
 * Marks are Unicode noncharacters that the messages do not use.
 */
import type { TextPiece } from "../tokenizer/index.js";

/** Single characters that stand in none of the messages. */
export interface Marks {
  readonly open: string;
  readonly close: string;
  /** Stands for an answer whose text does not matter. */
  readonly answer: string;
}

/** U+FDD0 to U+FDEF: never characters, for a program's own use (Unicode, section 23.7). */
const noncharacters = Array.from({ length: 32 }, (_, i) => String.fromCharCode(0xfdd0 + i));

/** Three marks, or undefined when the texts use (nearly) all noncharacters themselves. */
export function chooseMarks(texts: readonly string[]): Marks | undefined {
  const [open, close, answer] = noncharacters.filter((mark) =>
    texts.every((text) => !text.includes(mark)),
  );
  if (open === undefined || close === undefined || answer === undefined) return undefined;
  return { open, close, answer };
}

/** Cuts off white space at both ends: templates trim messages, and must still be able to. */
function trimParts(text: string): [before: string, core: string, after: string] {
  const core = text.trim();
  const begin = text.length - text.trimStart().length;
  return [text.slice(0, begin), core, text.slice(begin + core.length)];
}

/** Marks a whole message. */
export function markWhole(text: string, marks: Marks): string {
  const [before, core, after] = trimParts(text);
  return core === "" ? text : before + marks.open + core + marks.close + after;
}

/** Does a control token's name begin with an end of `text`? */
function mayBegin(text: string, names: readonly string[]): boolean {
  return names.some((name) =>
    Array.from({ length: name.length - 1 }, (_, i) => name.slice(0, i + 1)).some((part) =>
      text.endsWith(part),
    ),
  );
}

/** Does a control token's name end with a beginning of `text`? */
function mayEnd(text: string, names: readonly string[]): boolean {
  return names.some((name) =>
    Array.from({ length: name.length - 1 }, (_, i) => name.slice(i + 1)).some((part) =>
      text.startsWith(part),
    ),
  );
}

/**
 * Marks only what looks like a control token in a message, and seams at its ends where it could
 * complete one together with its surroundings. For templates that take messages apart: they see the
 * message almost as it is.
 */
export function markNames(text: string, marks: Marks, names: readonly string[]): string {
  const [before, core, after] = trimParts(text);
  const seam = marks.open + marks.close;
  const anyName = [...names]
    .sort((a, b) => b.length - a.length)
    .map((name) => name.replace(/[\\^$.*+?()[\]{}|/-]/g, "\\$&"))
    .join("|");
  const marked =
    anyName === ""
      ? core
      : core.replace(new RegExp(anyName, "g"), (name) => marks.open + name + marks.close);
  return (
    before +
    (mayEnd(core, names) ? seam : "") +
    marked +
    (mayBegin(core, names) ? seam : "") +
    after
  );
}

/** Pieces of a rendered text; undefined if the template has torn a pair of marks apart. */
export function readMarks(rendered: string, marks: Marks): TextPiece[] | undefined {
  const pieces: TextPiece[] = [];
  let inside = false;
  let begin = 0;
  const end = (at: number): void => {
    if (at > begin) pieces.push({ text: rendered.slice(begin, at), special: !inside });
    begin = at + 1;
  };
  for (let at = 0; at < rendered.length; at++) {
    const char = rendered[at];
    if (char !== marks.open && char !== marks.close) continue;
    if (inside !== (char === marks.close)) return undefined;
    end(at);
    inside = !inside;
  }
  end(rendered.length);
  return inside ? undefined : pieces;
}
