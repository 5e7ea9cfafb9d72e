/** Turns plain text, without special tokens, into ids: byte-level BPE or SentencePiece-style. */
export interface Encoder {
  /** Appends the ids of well-formed text to `ids`. Never a control token, whatever the text says. */
  encode(text: string, ids: number[]): void;
}
