/**
 * A codec for tests: one id a byte. The template is `<r:text>` a message and `<a:` where the answer
 * begins; id 0 ends an answer.
 */
import {
  TextCodecError,
  type AnswerDecoder,
  type ChatMessage,
  type TextCodec,
} from "../text-codec.js";

const utf8 = new TextEncoder();

function render(messages: readonly ChatMessage[]): string {
  if (messages.at(-1)?.role !== "user") {
    throw new TextCodecError("the last message must be the user's");
  }
  return `${messages.map(({ role, content }) => `<${role[0] ?? ""}:${content}>`).join("")}<a:`;
}

/** See the head of this file. */
export const byteCodec: TextCodec = {
  templateFingerprint: "template",
  encodeFirst: (messages) => [...utf8.encode(render(messages))],
  encodeContinuation: (messages) => [...utf8.encode(`>${render(messages)}`)],
  isEnd: (id) => id === 0,
  decoder: (): AnswerDecoder => {
    const decoder = new TextDecoder();
    return {
      push: (id) => decoder.decode(Uint8Array.of(id), { stream: true }),
      flush: () => decoder.decode(),
    };
  },
};
