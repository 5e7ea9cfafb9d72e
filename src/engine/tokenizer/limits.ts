/** Every bound of tokenizing, in one place. */

/** UTF-16 units of one text: half a million tokens of English; a single word as long as that takes 4 s. */
export const textCharsMax = 1 << 21;

/** Words whose tokens are remembered; the table is emptied when it is full. */
export const wordCacheEntriesMax = 8_192;

/** UTF-16 units of a remembered word: longer ones seldom come back. */
export const wordCacheCharsMax = 32;

/** Stop strings of one request. */
export const stopStringsMax = 16;

/** UTF-16 units of a stop string; also the most that a matcher holds back. */
export const stopStringCharsMax = 256;
