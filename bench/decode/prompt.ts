/** The benchmark's prompt: plain English, about as long as a question with some context. */
export const prompt = `The harbour lay quiet under a thin morning fog. Two boats had come in before
dawn, and their crews sat on the wall with bread and tea, talking about the wind. An old woman from
the lighthouse walked along the quay with a basket on her arm. She stopped at every boat, asked
what it had caught, and wrote the answer into a small green book. Nobody knew why she did it, and
nobody asked. Her father had kept the same book, and his mother before him, and some said that the
first page was older than the church. When the fog lifted, the children came down from the school
on the hill to count the gulls on the roof of the market. The teacher told them that a careful
count, made every day at the same hour, was worth more than a clever guess made once. So they
counted, and argued, and counted again. At noon the bell rang, the boats went out, and the woman
with the green book turned to go home. That day, however, she did not reach the lighthouse, because`.replace(
  /\s+/g,
  " ",
);
