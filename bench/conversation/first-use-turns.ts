/** What somebody says who tries it for the first time: three facts, and each asked for twenty turns later. */

/** In this order; facts and questions are of the kinds that the embedded model was trained for. */
export const firstUse: readonly string[] = [
  "Hi! My name is Clara.",
  "There is a concert on Thursday at 7:30.",
  "The code of my bicycle lock is 7294.",
  "What can you do?",
  "How are you today?",
  "It is raining here, and I did not sleep well.",
  "Tell me a short story about a fox.",
  "That was nice. Thank you.",
  "Why is the sky blue?",
  "My sister's name is Nora.",
  "I had pancakes for breakfast.",
  "Do you like music?",
  "What is 12 times 7?",
  "I have to go now.",
  "Here I am again.",
  "What is my sister's name?",
  "Tell me another story, about the sea.",
  "Okay.",
  "What is my favorite color?",
  "I have a question.",
  "What is my name?",
  "When is the concert?",
  "What is the code of my bicycle lock?",
];

/** Facts that are asked for: the turns, from 1, and what an answer must have. */
export const recalls = [
  { told: 1, asked: 21, has: "Clara" },
  { told: 2, asked: 22, has: "Thursday at 7:30" },
  { told: 3, asked: 23, has: "7294" },
] as const;
