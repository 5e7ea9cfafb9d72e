/**
 * Why a model file was refused.
 * - `magic`: it is no GGUF file.
 * - `version`: a version or byte order of GGUF that is not read.
 * - `truncated`: the file ends before the thing named.
 * - `limit`: a count or size is above its bound (limits.ts).
 * - `metadata`: a metadata value is missing, of the wrong type, or out of its range.
 * - `architecture`: a model that the engine does not compute.
 * - `tensor`: a tensor is missing, unknown, twice there, or of the wrong shape or type.
 * - `offset`: tensor data overlaps, is misaligned, or lies outside the file.
 * - `vocabulary`: the token table cannot be used.
 * - `source`: the bytes could not be fetched.
 * - `integrity`: fetched bytes are not those of the manifest.
 */
export type ModelFileErrorCode =
  | "magic"
  | "version"
  | "truncated"
  | "limit"
  | "metadata"
  | "architecture"
  | "tensor"
  | "offset"
  | "vocabulary"
  | "source"
  | "integrity";

/** A model file that cannot be used; the message names the thing, its value and the bound. */
export class ModelFileError extends Error {
  readonly code: ModelFileErrorCode;

  constructor(code: ModelFileErrorCode, message: string, options?: ErrorOptions) {
    super(message, options);
    this.name = "ModelFileError";
    this.code = code;
  }
}

/** Longest text from a file that a message repeats, in UTF-16 units. */
const quoteCharsMax = 80;

/** Text from a file as it may stand in a message: escaped and cut. */
export function quote(text: string): string {
  return JSON.stringify(text.length <= quoteCharsMax ? text : `${text.slice(0, quoteCharsMax)}…`);
}
