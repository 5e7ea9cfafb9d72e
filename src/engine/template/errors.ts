/**
 * Why a template did not render.
 * - `template`: the template itself cannot be used.
 * - `refused`: the template refuses these messages (an order of roles, for example).
 * - `messages`: no messages, or more than fit.
 * - `continuation`: the template cannot continue a conversation without its beginning.
 * - `limit`: a text is above its bound (limits.ts).
 */
export type TemplateErrorCode = "template" | "refused" | "messages" | "continuation" | "limit";

/** A chat template or messages that cannot be rendered. */
export class TemplateError extends Error {
  readonly code: TemplateErrorCode;

  constructor(code: TemplateErrorCode, message: string, options?: ErrorOptions) {
    super(message, options);
    this.name = "TemplateError";
    this.code = code;
  }
}
