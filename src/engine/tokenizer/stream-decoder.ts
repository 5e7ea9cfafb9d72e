import type { DecodeOptions, Tokenizer } from "./tokenizer.js";

/**
 * Text of ids that come one by one. Only whole code points come out; of a character that is not
 * complete yet, 3 bytes at most are held. Everything that comes out, put together, is what
 * `decode` gives for all ids.
 */
export class StreamDecoder {
  readonly #tokenizer: Tokenizer;
  readonly #options: DecodeOptions;
  readonly #utf8 = new TextDecoder("utf-8", { fatal: false, ignoreBOM: true });
  #stripSpace: boolean;

  constructor(tokenizer: Tokenizer, options: DecodeOptions = {}) {
    this.#tokenizer = tokenizer;
    this.#options = options;
    this.#stripSpace = options.start === true && tokenizer.hasSpacePrefix;
  }

  /** Takes the next id; gives the text that it completes, often all of its own, sometimes none. */
  push(id: number): string {
    const bytes = this.#tokenizer.bytesOf(id, this.#options);
    return this.#strip(this.#utf8.decode(bytes, { stream: true }));
  }

  /** Ends the text: a character that was never completed becomes U+FFFD. */
  flush(): string {
    return this.#strip(this.#utf8.decode());
  }

  #strip(text: string): string {
    if (!this.#stripSpace || text.length === 0) return text;
    this.#stripSpace = false;
    return text.startsWith(" ") ? text.slice(1) : text;
  }
}
