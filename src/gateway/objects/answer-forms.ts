/** The form that a call asks for, and who counts the answer: the object where the client gets what the object writes. */
import { AnswerWatch } from "../metrics/watch-answer.js";
import type { WatchedAnswer } from "../metrics/watch-answer.js";
import { frameFormat } from "./answer-format.js";
import type { AnswerForm } from "./answer-format.js";
import { openAiEvents, openAiWhole } from "./answer-format-openai.js";
import type { OpenAiAnswer } from "./answer-format-openai.js";
import type { AnswerOptions } from "./answer-streams.js";

/** What forms need to know. */
export interface WrittenAnswer {
  readonly answer: OpenAiAnswer;
  readonly watched: Omit<WatchedAnswer, "protocol">;
}

/** How an answer is written and counted. */
export function writtenAs(
  form: AnswerForm | undefined,
  { answer, watched }: WrittenAnswer,
): Pick<AnswerOptions, "format" | "watch"> {
  if (form === undefined || form === "frames") {
    return { format: frameFormat };
  }
  return {
    format: form === "whole" ? openAiWhole(answer) : openAiEvents(answer, form === "usage"),
    watch: new AnswerWatch({ ...watched, protocol: "openai" }),
  };
}
