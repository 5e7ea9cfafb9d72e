/** Text to token ids and back, from the vocabulary of a model file. */
export { TokenizerError } from "./errors.js";
export type { TokenizerErrorCode } from "./errors.js";
export { stopStringsMax, stopStringCharsMax, textCharsMax } from "./limits.js";
export type { TextPiece } from "./special-tokens.js";
export { createStopMatcher } from "./stop-matcher.js";
export type { StopMatcher, StopOutput } from "./stop-matcher.js";
export { StreamDecoder } from "./stream-decoder.js";
export type { TokenFacts } from "./token-facts.js";
export { Tokenizer } from "./tokenizer.js";
export type { DecodeOptions, EncodeOptions, EncodePiecesOptions } from "./tokenizer.js";
