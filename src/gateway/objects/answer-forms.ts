/** The form that a call asks for, and who counts the answer: the object where the client gets what the object writes. */
import { AnswerWatch } from "../metrics/watch-answer.js";
import type { WatchedAnswer } from "../metrics/watch-answer.js";
import { frameFormat } from "./answer-format.js";
import type { AnswerForm } from "./answer-format.js";
import { openAiEvents, openAiWhole } from "./answer-format-openai.js";
import type { OpenAiAnswer } from "./answer-format-openai.js";
import { connectFormat, grpcWebFormat } from "./answer-format-rpc.js";
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
  switch (form) {
    case undefined:
    case "frames":
      // Whoever reads the frames counts.
      return { format: frameFormat };
    case "connect":
    case "grpc-web":
      return {
        format: form === "connect" ? connectFormat : grpcWebFormat,
        watch: new AnswerWatch({ ...watched, protocol: form }),
      };
    default:
      return {
        format: form === "whole" ? openAiWhole(answer) : openAiEvents(answer, form === "usage"),
        watch: new AnswerWatch({ ...watched, protocol: "openai" }),
      };
  }
}
