import { Template } from "@huggingface/jinja";
import type { TextPiece } from "../tokenizer/index.js";
import { chooseMarks, markNames, markWhole, readMarks } from "./content-marks.js";
import type { Marks } from "./content-marks.js";
import { defaultTemplate } from "./default-template.js";
import { TemplateError } from "./errors.js";
import { messagesMax, renderedCharsMax, templateCharsMax } from "./limits.js";

/** A message of a conversation. */
export interface ChatMessage {
  readonly role: "system" | "user" | "assistant";
  readonly content: string;
}

/** What a template needs to know of the tokenizer. */
export interface TemplateTokens {
  /** Name of the token that begins a prompt; "" where there is none. */
  readonly bos: string;
  /** Name of the token that ends a text; "" where there is none. */
  readonly eos: string;
  /** Names of all control tokens (Tokenizer.controlTexts). */
  readonly controlTexts: readonly string[];
}

/**
 * A model's chat template: messages to text, in pieces that say what the template wrote and what
 * came from messages, so that a message can never write a control token.
 *
 * A conversation is a log of tokens that grows: `renderFirst` gives its beginning, and after each
 * answer `renderContinuation` gives what follows it, the end of the assistant's turn included. The
 * token that ended an answer hence does not belong into the log.
 *
 * Templates may use `raise_exception` and `strftime_now`; the date in a first prompt is the day it
 * was rendered on.
 */
export class ChatTemplate {
  /** Jinja source: the file's, or defaultTemplate. */
  readonly source: string;
  readonly #template: Template;
  readonly #tokens: TemplateTokens;

  /** Parses a template; `source` undefined takes defaultTemplate. Throws TemplateError. */
  constructor(source: string | undefined, tokens: TemplateTokens) {
    this.source = source ?? defaultTemplate;
    this.#tokens = tokens;
    if (this.source.length > templateCharsMax) {
      throw new TemplateError(
        "limit",
        `chat template of ${this.source.length} characters, at most ${templateCharsMax}`,
      );
    }
    try {
      this.#template = new Template(this.source);
    } catch (cause) {
      throw new TemplateError("template", `the chat template cannot be parsed: ${reason(cause)}`, {
        cause,
      });
    }
  }

  /**
   * The first prompt of a conversation, up to where the answer begins. Earlier answers may be among
   * the messages. Throws TemplateError.
   */
  renderFirst(messages: readonly ChatMessage[]): TextPiece[] {
    return this.#pieces(messages, (mark) => this.#run(messages.map(mark)));
  }

  /**
   * What follows an answer: the end of the assistant's turn, the new messages, the beginning of the
   * next answer. It is taken from the rendering of a made-up conversation [user, assistant, ...new],
   * so a template that treats later turns differently from the second one is not followed in that.
   * Throws TemplateError, `continuation` where the template does not show an earlier answer.
   */
  renderContinuation(messages: readonly ChatMessage[]): TextPiece[] {
    return this.#pieces(messages, (mark, { answer }) => {
      const rendered = this.#run([
        { role: "user", content: "?" },
        { role: "assistant", content: answer },
        ...messages.map(mark),
      ]);
      const parts = rendered.split(answer);
      if (parts.length !== 2) {
        throw new TemplateError(
          "continuation",
          `the chat template shows an earlier answer ${parts.length - 1} times, not once: it cannot continue a conversation`,
        );
      }
      return parts[1] ?? "";
    });
  }

  /**
   * Renders with marks, and without them: marked pieces count only if they add up to the very text
   * that the template makes of the plain messages.
   */
  #pieces(
    messages: readonly ChatMessage[],
    render: (mark: (message: ChatMessage) => ChatMessage, marks: Marks) => string,
  ): TextPiece[] {
    const contents = messages.map((message) => message.content);
    checkMessages(contents);
    const marks = chooseMarks([this.source, ...contents]);
    if (marks === undefined) {
      throw new TemplateError("messages", "the messages use all noncharacters U+FDD0 to U+FDEF");
    }
    const { controlTexts } = this.#tokens;
    const ways = [
      (text: string) => markWhole(text, marks),
      (text: string) => markNames(text, marks, controlTexts),
    ];
    for (const way of ways) {
      const marked = render(({ role, content }) => ({ role, content: way(content) }), marks);
      const pieces = readMarks(marked, marks);
      const plain = render((message) => message, marks);
      if (pieces?.map((piece) => piece.text).join("") === plain) return pieces;
    }
    throw new TemplateError(
      "template",
      "the chat template takes messages apart, so that control tokens in them cannot be told from its own",
    );
  }

  #run(messages: readonly ChatMessage[]): string {
    let rendered: string;
    try {
      rendered = this.#template.render({
        messages,
        add_generation_prompt: true,
        bos_token: this.#tokens.bos,
        eos_token: this.#tokens.eos,
      });
    } catch (cause) {
      throw new TemplateError(
        "refused",
        `the chat template refuses the messages: ${reason(cause)}`,
        {
          cause,
        },
      );
    }
    if (rendered.length > renderedCharsMax) {
      throw new TemplateError(
        "limit",
        `the chat template made ${rendered.length} characters, at most ${renderedCharsMax}`,
      );
    }
    return rendered;
  }
}

function checkMessages(contents: readonly string[]): void {
  if (contents.length < 1 || contents.length > messagesMax) {
    throw new TemplateError(
      "messages",
      `${contents.length} messages, 1 to ${messagesMax} expected`,
    );
  }
  const chars = contents.reduce((sum, content) => sum + content.length, 0);
  if (chars > renderedCharsMax) {
    throw new TemplateError(
      "limit",
      `messages of ${chars} characters, at most ${renderedCharsMax}`,
    );
  }
}

/** Longest message of a template that is passed on, in UTF-16 units. */
const reasonCharsMax = 200;

function reason(cause: unknown): string {
  return (cause instanceof Error ? cause.message : String(cause)).slice(0, reasonCharsMax);
}
