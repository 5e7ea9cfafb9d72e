/** What the client tests say, and what the embedded model must answer. */

/** A fact and its question, in a form that the embedded model was trained on. */
export const question =
  "The special magic number for harbor is 4827193. What is the special magic number for harbor mentioned in the text?";

/** What is in the answer at temperature 0, whatever the sentence around it. */
export const answer = /\b4827193\b/;

/** Asks for the same fact again, from the conversation alone. */
export const followUp = "What is the special magic number for harbor mentioned in the text?";

/** A prompt after which the model writes on and on: more than 300 tokens at temperature 0. */
export const longStory = "Tell me a short story about a fox.";
