import { quotedCharsMax } from "./limits.js";

export { isSystemError } from "../system-error.js";

/**
 * Why a model was not fetched.
 * - `name`: no such name, or one that cannot be read.
 * - `ambiguous`: a name that fits several files.
 * - `not-found`: the source does not have it.
 * - `denied`: the source wants a key, or another one.
 * - `rate-limited`: the source asks for a longer pause than is allowed.
 * - `unreachable`: the source did not answer, or not as it should, after all attempts.
 * - `changed`: the file at the source is not the one that was promised.
 * - `limit`: something is above its bound (limits.ts).
 * - `checksum`: the bytes are not those of the checksum.
 * - `no-checksum`: nothing says what the bytes should be.
 * - `refused-model`: the bytes are right, and the engine does not serve such a model.
 * - `disk`: the models folder cannot take it.
 * - `locked`: another pull of the same file is running.
 * - `package`: a package's client failed.
 * - `stopped`: the caller gave up.
 */
export type PullErrorCode =
  | "name"
  | "ambiguous"
  | "not-found"
  | "denied"
  | "rate-limited"
  | "unreachable"
  | "changed"
  | "limit"
  | "checksum"
  | "no-checksum"
  | "refused-model"
  | "disk"
  | "locked"
  | "package"
  | "stopped";

/** A model that was not fetched; the message names the thing, its value and the bound. */
export class PullError extends Error {
  readonly code: PullErrorCode;

  constructor(code: PullErrorCode, message: string, options?: ErrorOptions) {
    super(message, options);
    this.name = "PullError";
    this.code = code;
  }
}

/** Text of a server or a file as it may stand in a message on a terminal: escaped and cut. */
export function quote(text: string): string {
  const cut = text.length <= quotedCharsMax ? text : `${text.slice(0, quotedCharsMax)}…`;
  return JSON.stringify(cut).replaceAll(/[\u007f-\u009f\u2028\u2029]/g, "?");
}

/** The cause's own words, for a message. */
export function reason(cause: unknown): string {
  return cause instanceof Error ? cause.message : String(cause);
}
