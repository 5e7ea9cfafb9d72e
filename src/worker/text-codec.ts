/**
 * What the worker needs to turn messages into ids and ids into text. Whoever owns an engine owns
 * its tokens; src/engine/ provides the implementation for a loaded model.
 */

/** A message to be rendered. */
export interface ChatMessage {
  readonly role: "system" | "user" | "assistant";
  readonly content: string;
}

/** Turns ids into text piece by piece; never gives out half a character. */
export interface AnswerDecoder {
  /** Text that the next id completes; empty while bytes are held back. */
  push(id: number): string;
  /** What is held back, with unfinished characters replaced by U+FFFD. */
  flush(): string;
}

/** A model's tokenizer and chat template. */
export interface TextCodec {
  /** SHA-256 of the template's text, lower-case hexadecimal. */
  readonly templateFingerprint: string;
  /**
   * Ids of a conversation's first prompt, up to where the answer begins.
   * @throws TextCodecError if the template refuses the messages
   */
  encodeFirst(messages: readonly ChatMessage[]): number[];
  /**
   * Ids that follow an answer: the end of the assistant's turn, the new messages, the start of the
   * next answer.
   * @throws TextCodecError if the template refuses the messages
   */
  encodeContinuation(messages: readonly ChatMessage[]): number[];
  /** A decoder for one answer. */
  decoder(): AnswerDecoder;
  /** Whether an id ends an answer. */
  isEnd(id: number): boolean;
}

/** The template or the tokenizer refuses the messages; the message says why. */
export class TextCodecError extends Error {
  override readonly name = "TextCodecError";
}
