/** Ten questions that somebody might ask, some of them about what was said before. */
export const system = "You are a helpful assistant. Answer in a few sentences.";

/** In this order; none was taken out or reworded for its answer. */
export const questions: readonly string[] = [
  "What is the difference between weather and climate?",
  "Can you give me an example of each?",
  "Why is the sky blue?",
  "And why is it red at sunset?",
  "What should I pack for a weekend of hiking in the mountains in autumn?",
  "How do I stay warm in the tent at night?",
  "What is the capital of France, and which river runs through it?",
  'How do I say "good morning, how are you?" in French?',
  "Write a short poem about a river at sunset.",
  "What was the first thing that I asked you?",
];
