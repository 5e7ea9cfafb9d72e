/** Every bound of chat templates, in one place. */

/** UTF-16 units of a template's source: the longest known, with tools, have 20,000. */
export const templateCharsMax = 1 << 18;

/** Messages of one rendering: more than any session has turns. */
export const messagesMax = 8_192;

/** UTF-16 units of all messages together, and of what a template makes of them: a tokenizer's bound. */
export const renderedCharsMax = 1 << 21;
