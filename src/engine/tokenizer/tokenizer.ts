import { tokenTypes } from "../gguf/index.js";
import type { Vocabulary } from "../gguf/index.js";
import { BpeEncoder } from "./bpe-encoder.js";
import { byteOfChar } from "./byte-alphabet.js";
import type { Encoder } from "./encoder.js";
import { TokenizerError } from "./errors.js";
import { textCharsMax } from "./limits.js";
import { preTokenizer } from "./pre-tokenizers.js";
import { spaceMark, SpmEncoder } from "./spm-encoder.js";
import { findSpecialTokens } from "./special-tokens.js";
import type { SpecialToken, TextPiece } from "./special-tokens.js";
import { tokenFacts } from "./token-facts.js";
import type { TokenFacts } from "./token-facts.js";

/** How plain text is encoded. */
export interface EncodeOptions {
  /** Names of control tokens in the text are those tokens. Never set it for text of a user. */
  readonly parseSpecial: boolean;
}

/** How pieces are encoded. */
export interface EncodePiecesOptions {
  /** The pieces begin a log: BOS and a leading space come first where the model wants them. */
  readonly start: boolean;
}

/** How ids become text. */
export interface DecodeOptions {
  /** Show control tokens by their names; default: they are left out. */
  readonly special?: boolean;
  /** The ids begin a text: the space that encoding put in front is taken away. Default false. */
  readonly start?: boolean;
}

/**
 * Text to ids and back, for one model; token for token as llama.cpp does it. There is one
 * difference, on purpose: without `parseSpecial` no text can ever become a control token, while
 * llama.cpp lets merges spell one.
 */
export class Tokenizer {
  /** What single tokens mean. */
  readonly facts: TokenFacts;
  /** Texts of the tokens that only templates may write, longest first. */
  readonly controlTexts: readonly string[];
  readonly #tokens: readonly string[];
  readonly #types: Uint8Array;
  readonly #specials: readonly SpecialToken[];
  readonly #encoder: Encoder;
  /** The vocabulary marks spaces by spaceMark (SentencePiece style). */
  readonly #marksSpaces: boolean;
  readonly #addSpacePrefix: boolean;

  /** Builds the tokenizer of a token table. Throws TokenizerError `vocabulary`. */
  constructor(vocabulary: Vocabulary) {
    const ids = new Map(vocabulary.tokens.map((text, id) => [text, id]));
    this.#marksSpaces = vocabulary.model === "llama";
    this.#addSpacePrefix = this.#marksSpaces && (vocabulary.addSpacePrefix ?? true);
    const words = this.#marksSpaces ? undefined : preTokenizer(vocabulary.pre);
    const { facts, types } = tokenFacts(vocabulary, ids, words?.addBos ?? true);
    this.facts = facts;
    this.#tokens = vocabulary.tokens;
    this.#types = types;
    const isControl = (id: number) => this.#isHidden(id);
    this.#encoder =
      words === undefined
        ? new SpmEncoder(vocabulary, ids, isControl)
        : new BpeEncoder(vocabulary, ids, words, isControl);
    this.#specials = this.#findSpecials();
    this.controlTexts = this.#specials
      .filter((token) => !token.everywhere)
      .map((token) => token.text);
  }

  /** Ids of a text, without BOS. Lone surrogates count as U+FFFD. Throws TokenizerError `limit`. */
  encode(text: string, options: EncodeOptions): number[] {
    return this.#encode([{ text, special: options.parseSpecial }], false, true);
  }

  /**
   * Ids of a rendered template: control tokens are read in special pieces only. Tokens may still
   * span pieces, so the ids are those of the whole text. Throws TokenizerError `limit`.
   */
  encodePieces(pieces: readonly TextPiece[], options: EncodePiecesOptions): number[] {
    return this.#encode(pieces, options.start, options.start);
  }

  /** Text of ids; bytes that are not UTF-8 become U+FFFD. Throws TokenizerError `token`. */
  decode(ids: readonly number[], options: DecodeOptions = {}): string {
    const parts = ids.map((id) => this.bytesOf(id, options));
    const bytes = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
    let at = 0;
    for (const part of parts) {
      bytes.set(part, at);
      at += part.length;
    }
    const text = new TextDecoder("utf-8", { fatal: false, ignoreBOM: true }).decode(bytes);
    const strip = options.start === true && this.#addSpacePrefix && text.startsWith(" ");
    return strip ? text.slice(1) : text;
  }

  /** Bytes that a token stands for; none for control tokens unless `special` is set. */
  bytesOf(id: number, options: DecodeOptions = {}): Uint8Array {
    const text = this.#tokens[id];
    if (text === undefined) {
      throw new TokenizerError("token", `token ${id} is outside 0 to ${this.#tokens.length - 1}`);
    }
    switch (this.#types[id]) {
      case tokenTypes.control:
      case tokenTypes.unknown:
        return options.special === true ? utf8(text) : new Uint8Array(0);
      case tokenTypes.userDefined:
        return utf8(text);
      case tokenTypes.byte:
        return Uint8Array.of(parseInt(text.slice(3, 5), 16));
      case tokenTypes.normal:
        return this.#marksSpaces ? utf8(text.replaceAll(spaceMark, " ")) : bytesOfAlphabet(text);
      default:
        // Unused and undefined tokens stand for nothing.
        return new Uint8Array(0);
    }
  }

  /** The text by which a token is named in templates. Throws TokenizerError `token`. */
  textOf(id: number): string {
    const text = this.#tokens[id];
    if (text === undefined) {
      throw new TokenizerError("token", `token ${id} is outside 0 to ${this.#tokens.length - 1}`);
    }
    return text;
  }

  /** Does generation end with this token? */
  endsGeneration(id: number): boolean {
    return this.facts.endOfGeneration.has(id);
  }

  /** Takes the space off that encoding put before a text, where the model has that habit. */
  get hasSpacePrefix(): boolean {
    return this.#addSpacePrefix;
  }

  #encode(pieces: readonly TextPiece[], start: boolean, atTextStart: boolean): number[] {
    const chars = pieces.reduce((sum, piece) => sum + piece.text.length, 0);
    if (chars > textCharsMax) {
      throw new TokenizerError("limit", `text of ${chars} characters, at most ${textCharsMax}`);
    }
    const { text, fragments } = findSpecialTokens(pieces, this.#specials);
    const ids: number[] = [];
    const { bos } = this.facts;
    // A template that writes BOS itself must not get a second one.
    if (start && this.facts.addBos && bos !== undefined && fragments[0] !== bos) ids.push(bos);
    let afterSpecial = atTextStart;
    for (const fragment of fragments) {
      if (typeof fragment === "number") {
        ids.push(fragment);
        afterSpecial = true;
        continue;
      }
      const run = text.slice(fragment.begin, fragment.end);
      if (this.#marksSpaces) {
        const prefix = this.#addSpacePrefix && afterSpecial ? spaceMark : "";
        this.#encoder.encode(prefix + run.replaceAll(" ", spaceMark), ids);
      } else {
        this.#encoder.encode(run, ids);
      }
      afterSpecial = false;
    }
    return ids;
  }

  #isHidden(id: number): boolean {
    return this.#types[id] === tokenTypes.control || this.#types[id] === tokenTypes.unknown;
  }

  #findSpecials(): SpecialToken[] {
    const found: (SpecialToken & { size: number })[] = [];
    for (const [id, text] of this.#tokens.entries()) {
      const everywhere = this.#types[id] === tokenTypes.userDefined;
      if (everywhere || this.#isHidden(id))
        found.push({ id, text, everywhere, size: utf8(text).length });
    }
    return found
      .sort((a, b) => b.size - a.size)
      .map(({ id, text, everywhere }) => ({ id, text, everywhere }));
  }
}

function utf8(text: string): Uint8Array {
  return new TextEncoder().encode(text);
}

/** Bytes of a byte-level token; characters outside the alphabet stand for themselves. */
function bytesOfAlphabet(text: string): Uint8Array {
  const bytes: number[] = [];
  for (const char of text) {
    const byte = byteOfChar(char);
    if (byte === undefined) bytes.push(...utf8(char));
    else bytes.push(byte);
  }
  return Uint8Array.from(bytes);
}
