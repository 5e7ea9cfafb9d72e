/** Templates of real files, rendered and tokenized as a host does it. */
import { existsSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { describe, expect, it } from "vitest";
import { embeddedFile } from "../../embedded-model.js";
import { openFileSource } from "../gguf/file-source.js";
import { readModelFile } from "../gguf/index.js";
import { Tokenizer } from "../tokenizer/index.js";
import { ChatTemplate } from "./chat-template.js";

function modelPath(path: string): string {
  return fileURLToPath(new URL(`../../../${path}`, import.meta.url));
}

async function load(path: string): Promise<{ tokenizer: Tokenizer; template: ChatTemplate }> {
  const source = await openFileSource(path);
  const file = await readModelFile(source);
  await source.close();
  const tokenizer = new Tokenizer(file.vocabulary);
  const { bos, eos } = tokenizer.facts;
  const template = new ChatTemplate(file.chatTemplate, {
    bos: bos === undefined ? "" : tokenizer.textOf(bos),
    eos: eos === undefined ? "" : tokenizer.textOf(eos),
    controlTexts: tokenizer.controlTexts,
  });
  return { tokenizer, template };
}

const hello = [{ role: "user", content: "Hi <|im_end|><|end|>" }] as const;

describe("the embedded model", () => {
  it("begins with BOS once and keeps its control tokens to itself", async () => {
    const { tokenizer, template } = await load(modelPath(embeddedFile));
    const first = tokenizer.encodePieces(template.renderFirst(hello), { start: true });
    const inner = tokenizer.encode(hello[0].content, { parseSpecial: false });
    const [bos, user, assistant, end] = ["<|bos|>", "<|user|>", "<|assistant|>", "<|end|>"].map(
      (text) => tokenizer.encode(text, { parseSpecial: true })[0],
    );
    expect(first).toEqual([bos, user, ...inner, end, assistant]);
    const next = tokenizer.encodePieces(template.renderContinuation(hello), { start: false });
    expect(next).toEqual([end, user, ...inner, end, assistant]);
  });
});

const smolLm2 = modelPath("models/cache/smollm2-135m-instruct.gguf");
const noSmolLm2 = !existsSync(smolLm2) && process.env["LEANEDGE_CI"] !== "1";

describe.skipIf(noSmolLm2)(
  `SmolLM2${noSmolLm2 ? " [skipped: needs npm run fetch:smollm2]" : ""}`,
  () => {
    it("is addressed as its makers do", async () => {
      const { tokenizer, template } = await load(smolLm2);
      const pieces = template.renderFirst(hello);
      // As Python's Jinja renders it.
      expect(pieces.map((piece) => piece.text).join("")).toBe(
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n" +
          "<|im_start|>user\nHi <|im_end|><|end|><|im_end|>\n<|im_start|>assistant\n",
      );
      const ids = tokenizer.encodePieces(pieces, { start: true });
      const [start, end] = [1, 2];
      expect(ids.filter((id) => id === start)).toHaveLength(3);
      expect(ids.filter((id) => id === end)).toHaveLength(2);
      expect(tokenizer.decode(ids, { special: true })).toBe(pieces.map((p) => p.text).join(""));
      const next = template.renderContinuation(hello).map((piece) => piece.text);
      expect(next.join("")).toBe(
        "<|im_end|>\n<|im_start|>user\nHi <|im_end|><|end|><|im_end|>\n<|im_start|>assistant\n",
      );
    });
  },
);

const stories = modelPath("../shared/models/stories260K.gguf");
const noStories = !existsSync(stories) && process.env["LEANEDGE_CI"] !== "1";

describe.skipIf(noStories)(
  `stories260K${noStories ? " [skipped: needs ../shared/models/stories260K.gguf]" : ""}`,
  () => {
    it("is a base model: a message is the beginning of a story", async () => {
      const { tokenizer, template } = await load(stories);
      const message = { role: "user", content: "Once upon a time" } as const;
      const first = tokenizer.encodePieces(template.renderFirst([message]), { start: true });
      expect(first).toEqual([1, ...tokenizer.encode(message.content, { parseSpecial: false })]);
      const next = tokenizer.encodePieces(template.renderContinuation([message]), { start: false });
      expect(tokenizer.decode(next)).toBe("\nOnce upon a time");
    });
  },
);
