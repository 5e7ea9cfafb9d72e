/**
 * Why tokenizing failed.
 * - `vocabulary`: the model's token table cannot be used.
 * - `limit`: a text or list is above its bound (limits.ts).
 * - `token`: an id that the vocabulary does not have.
 */
export type TokenizerErrorCode = "vocabulary" | "limit" | "token";

/** A tokenizer that cannot be built, or an argument that it refuses. */
export class TokenizerError extends Error {
  readonly code: TokenizerErrorCode;

  constructor(code: TokenizerErrorCode, message: string) {
    super(message);
    this.name = "TokenizerError";
    this.code = code;
  }
}
