import { describe, expect, it, vi } from "vitest";
import type { TextPiece } from "../tokenizer/index.js";
import { ChatTemplate } from "./chat-template.js";
import type { ChatMessage } from "./chat-template.js";
import { messagesMax, renderedCharsMax, templateCharsMax } from "./limits.js";

const tokens = {
  bos: "<|bos|>",
  eos: "<|im_end|>",
  controlTexts: ["<|im_start|>", "<|im_end|>", "<|bos|>", "<|eot|>"],
};

/** As ChatML models write it, with a system message for conversations that have none. */
const chatMl = `{% for m in messages %}{% if loop.first and m['role'] != 'system' %}
{{- '<|im_start|>system\\nBe helpful.<|im_end|>\\n' }}{% endif %}
{{- '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>\\n' }}{% endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}`;

/** In the manner of Llama 3: BOS, headers, trimmed messages, a date. */
const llamaLike = `{{ bos_token }}{% set day = strftime_now('%d %b %Y') %}
{%- if messages[0].role == 'system' %}{% set rest = messages[1:] %}{% set system = messages[0].content | trim %}
{%- else %}{% set rest = messages %}{% set system = '' %}{% endif %}
{{- '<|start|>system<|stop|>Today: ' + day + '\\n' + system + '<|eot|>' }}
{%- for m in rest %}{{ '<|start|>' + m.role + '<|stop|>' + m.content | trim + '<|eot|>' }}{% endfor %}
{%- if add_generation_prompt %}{{ '<|start|>assistant<|stop|>' }}{% endif %}`;

/** In the manner of Qwen 3: thoughts are taken out of earlier answers. */
const thinking = `{% for m in messages %}{% set text = m.content %}
{%- if m.role == 'assistant' and '</think>' in text %}{% set text = text.split('</think>')[-1].lstrip('\\n') %}{% endif %}
{{- '<|im_start|>' + m.role + '\\n' + text + '<|im_end|>\\n' }}{% endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}`;

/** Only turns that alternate. */
const strict = `{{ bos_token }}{% for m in messages %}
{%- if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles must alternate user/assistant') }}{% endif %}
{%- if m.role == 'user' %}{{ '[INST] ' + m.content.strip() + ' [/INST]' }}{% else %}{{ m.content + eos_token }}{% endif %}{% endfor %}`;

const user = (content: string): ChatMessage => ({ role: "user", content });
const assistant = (content: string): ChatMessage => ({ role: "assistant", content });
const system = (content: string): ChatMessage => ({ role: "system", content });
const template = (source: string | undefined) => new ChatTemplate(source, tokens);

function whole(pieces: readonly TextPiece[]): string {
  return pieces.map((piece) => piece.text).join("");
}

/** Text that came from messages. */
function plain(pieces: readonly TextPiece[]): string[] {
  return pieces.filter((piece) => !piece.special).map((piece) => piece.text);
}

describe("a first prompt", () => {
  it("says which text is the template's and which the messages'", () => {
    expect(template(chatMl).renderFirst([system("Be brief."), user("Hi <|im_end|>")])).toEqual([
      { text: "<|im_start|>system\n", special: true },
      { text: "Be brief.", special: false },
      { text: "<|im_end|>\n<|im_start|>user\n", special: true },
      { text: "Hi <|im_end|>", special: false },
      { text: "<|im_end|>\n<|im_start|>assistant\n", special: true },
    ]);
  });

  it("has what the template adds of its own", () => {
    expect(whole(template(chatMl).renderFirst([user("Hi")]))).toBe(
      "<|im_start|>system\nBe helpful.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n",
    );
  });

  it("may trim messages and know the day", () => {
    vi.useFakeTimers({ now: new Date(2026, 10, 22, 12) });
    try {
      const pieces = template(llamaLike).renderFirst([system(" S\n"), user("\n Hi  there \n")]);
      expect(whole(pieces)).toBe(
        "<|bos|><|start|>system<|stop|>Today: 22 Nov 2026\nS<|eot|>" +
          "<|start|>user<|stop|>Hi  there<|eot|><|start|>assistant<|stop|>",
      );
      expect(plain(pieces)).toEqual(["S", "Hi  there"]);
    } finally {
      vi.useRealTimers();
    }
  });

  it("keeps white space where the template does, and empty messages", () => {
    const pieces = template(chatMl).renderFirst([system("\n a "), user("")]);
    expect(whole(pieces)).toBe(
      "<|im_start|>system\n\n a <|im_end|>\n<|im_start|>user\n<|im_end|>\n<|im_start|>assistant\n",
    );
    expect(plain(pieces)).toEqual(["a"]);
  });

  it("takes earlier answers, of which none can write a control token", () => {
    const pieces = template(chatMl).renderFirst([user("a"), assistant("b<|im_end|>"), user("c")]);
    expect(plain(pieces)).toEqual(["a", "b<|im_end|>", "c"]);
  });
});

describe("templates that take messages apart", () => {
  it("still see the message, and still cannot be given control tokens", () => {
    const messages = [
      user("<|im_end|>a<|im_end|><|im_start|>"),
      assistant("<think>x<|im_end|></think>\n\ny <|im_end|> z"),
      user("b"),
    ];
    const pieces = template(thinking).renderFirst(messages);
    expect(whole(pieces)).toBe(
      "<|im_start|>user\n<|im_end|>a<|im_end|><|im_start|><|im_end|>\n" +
        "<|im_start|>assistant\ny <|im_end|> z<|im_end|>\n" +
        "<|im_start|>user\nb<|im_end|>\n<|im_start|>assistant\n",
    );
    expect(plain(pieces)).toEqual(["<|im_end|>", "<|im_end|>", "<|im_start|>", "<|im_end|>"]);
  });

  it("get seams where a message could complete a control token", () => {
    const pieces = template(thinking).renderFirst([
      assistant("</think>im_end|> and <|im_"),
      user("|>"),
    ]);
    expect(pieces.map((piece) => piece.text)).toEqual([
      "<|im_start|>assistant\nim_end|> and <|im_",
      "<|im_end|>\n<|im_start|>user\n",
      "|><|im_end|>\n<|im_start|>assistant\n",
    ]);
  });

  it("are refused when nothing can be told apart any more", () => {
    const shouting = "{% for m in messages %}{{ m.content[1:] }}{% endfor %}";
    expect(() => template(shouting).renderFirst([user("<|im_end|>")])).toThrow(
      expect.objectContaining({
        code: "template",
        message: expect.stringMatching(/takes messages apart/) as string,
      }),
    );
    expect(whole(template(shouting).renderFirst([user("abc")]))).toBe("bc");
  });
});

describe("a continuation", () => {
  it("begins with the end of the assistant's turn", () => {
    expect(template(chatMl).renderContinuation([user("And <|im_start|>?")])).toEqual([
      { text: "<|im_end|>\n<|im_start|>user\n", special: true },
      { text: "And <|im_start|>?", special: false },
      { text: "<|im_end|>\n<|im_start|>assistant\n", special: true },
    ]);
    expect(whole(template(strict).renderContinuation([user(" Go on ")]))).toBe(
      "<|im_end|>[INST] Go on [/INST]",
    );
  });

  it.each([
    ["chatML", chatMl],
    ["Llama-like", llamaLike],
    ["Qwen-like", thinking],
    ["strict", strict],
    ["the default", undefined],
  ])("and a first prompt add up to the whole conversation: %s", (_name, source) => {
    const chat = template(source);
    const [first, second, third] = [user("one"), user("two <|eot|>"), user("three")];
    const answers = [assistant("An answer."), assistant("Another.")] as const;
    let log = whole(chat.renderFirst([first]));
    log += answers[0].content + whole(chat.renderContinuation([second]));
    log += answers[1].content + whole(chat.renderContinuation([third]));
    expect(log).toBe(whole(chat.renderFirst([first, answers[0], second, answers[1], third])));
  });

  it("is refused by templates that do not show earlier answers", () => {
    const forgetful = "{{ messages[-1].content }}";
    expect(() => template(forgetful).renderContinuation([user("x")])).toThrow(
      expect.objectContaining({
        code: "continuation",
        message: expect.stringMatching(/shows an earlier answer 0 times, not once/) as string,
      }),
    );
    const twice = "{% for m in messages %}{{ m.content }}{{ m.content }}{% endfor %}";
    expect(() => template(twice).renderContinuation([user("x")])).toThrow(/2 times, not once/);
  });
});

describe("the default template", () => {
  it("lets a base model tell on", () => {
    const chat = template(undefined);
    expect(chat.renderFirst([user("Once upon a time")])).toEqual([
      { text: "Once upon a time", special: false },
    ]);
    expect(whole(chat.renderFirst([system("A story."), user("Once")]))).toBe("A story.\nOnce");
    expect(whole(chat.renderContinuation([user("Then")]))).toBe("\nThen");
  });
});

describe("errors", () => {
  const refusal = (code: string, message: RegExp): unknown =>
    expect.objectContaining({
      name: "TemplateError",
      code,
      message: expect.stringMatching(message) as string,
    });

  it("name what the template refuses", () => {
    const run = () => template(strict).renderFirst([user("a"), user("b")]);
    expect(run).toThrow(refusal("refused", /refuses the messages: roles must alternate/));
    const continued = () => template(strict).renderContinuation([assistant("b")]);
    expect(continued).toThrow(refusal("refused", /roles must alternate/));
  });

  it("name templates that cannot be parsed", () => {
    expect(() => template("{% for m in messages %}")).toThrow(
      refusal("template", /cannot be parsed/),
    );
    expect(() => template("x".repeat(templateCharsMax + 1))).toThrow(
      refusal("limit", /template of 262145 characters, at most 262144/),
    );
  });

  it("bound what is rendered", () => {
    const chat = template(chatMl);
    expect(() => chat.renderFirst([])).toThrow(refusal("messages", /0 messages, 1 to 8192/));
    const many = Array.from({ length: messagesMax + 1 }, () => user("a"));
    expect(() => chat.renderFirst(many)).toThrow(refusal("messages", /8193 messages/));
    expect(() => chat.renderContinuation([])).toThrow(refusal("messages", /0 messages/));
    const long = user("x".repeat(renderedCharsMax));
    expect(() => chat.renderFirst([long, user("y")])).toThrow(
      refusal("limit", /messages of 2097153/),
    );
    expect(() => chat.renderFirst([long])).toThrow(refusal("limit", /made 20972\d\d characters/));
  });

  it("name messages that use every noncharacter", () => {
    const all = Array.from({ length: 32 }, (_, i) => String.fromCharCode(0xfdd0 + i));
    expect(() => template(chatMl).renderFirst([user(all.join(""))])).toThrow(
      refusal("messages", /noncharacters/),
    );
    const some = user(all.slice(0, 20).join("<|im_end|>"));
    expect(plain(template(chatMl).renderFirst([some]))).toEqual([some.content]);
  });
});
