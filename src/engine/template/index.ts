/** Chat templates of model files. */
export { ChatTemplate } from "./chat-template.js";
export type { ChatMessage, TemplateTokens } from "./chat-template.js";
export { defaultTemplate } from "./default-template.js";
export { TemplateError } from "./errors.js";
export type { TemplateErrorCode } from "./errors.js";
