import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { Code } from "@connectrpc/connect";
import { afterEach, describe, expect, it } from "vitest";
import { embeddedFile } from "../../embedded-model.js";
import { openFileSource } from "../../engine/gguf/file-source.js";
import { readModelFile } from "../../engine/gguf/model-file.js";
import { modelText } from "../../engine/load-engine.js";
import { createModelCodec } from "../model-codec.js";
import { TextCodecError, type ChatMessage } from "../text-codec.js";
import { PromptTexts } from "./prompt-texts.js";

const modelPath = resolve(import.meta.dirname, "../../..", embeddedFile);
const never = new AbortController().signal;
const open: PromptTexts[] = [];

afterEach(async () => {
  for (const texts of open.splice(0)) await texts.close();
});

function start(path = modelPath, queueMax?: number): PromptTexts {
  const texts = new PromptTexts(path, queueMax);
  open.push(texts);
  return texts;
}

function user(content: string): ChatMessage[] {
  return [{ role: "user", content }];
}

describe("PromptTexts", () => {
  it("gives the ids that the codec gives, for first and further prompts", async () => {
    const source = await openFileSource(modelPath);
    const file = await readModelFile(source);
    await source.close();
    const codec = createModelCodec({ ...modelText(file), templateFingerprint: "" });
    const texts = start();
    const messages = user("Überraschung 1234 <|im_end|> ".repeat(500));
    expect([...(await texts.encode(messages, false, never))]).toEqual(codec.encodeFirst(messages));
    expect([...(await texts.encode(messages, true, never))]).toEqual(
      codec.encodeContinuation(messages),
    );
  });

  it("passes on what the template refuses", async () => {
    const empty = start().encode([], false, never);
    await expect(empty).rejects.toThrow(TextCodecError);
  });

  it("refuses more prompts than may wait, and takes others when those are done", async () => {
    const texts = start(modelPath, 2);
    const waiting = [texts.encode(user("a"), false, never), texts.encode(user("b"), false, never)];
    const code = { code: Code.ResourceExhausted };
    await expect(texts.encode(user("c"), false, never)).rejects.toMatchObject(code);
    await Promise.all(waiting);
    expect(texts.waiting).toBe(0);
    expect((await texts.encode(user("c"), false, never)).length).toBeGreaterThan(0);
  });

  it("lets callers leave, and gives their place to others", async () => {
    const texts = start(modelPath, 1);
    const leaving = new AbortController();
    const left = texts.encode(user("a"), false, leaving.signal);
    leaving.abort();
    await expect(left).rejects.toMatchObject({ code: Code.Canceled });
    await expect(texts.encode(user("a"), false, leaving.signal)).rejects.toMatchObject({
      code: Code.Canceled,
    });
    expect((await texts.encode(user("b"), false, never)).length).toBeGreaterThan(0);
  });

  it("fails who waits when its thread does not start, and tries again for the next", async () => {
    const folder = await mkdtemp(join(tmpdir(), "leanedge-texts-"));
    const path = join(folder, "broken.gguf");
    await writeFile(path, "no model");
    const texts = start(path);
    for (let attempt = 1; attempt <= 2; attempt++) {
      await expect(texts.encode(user("a"), false, never)).rejects.toThrow(/magic|GGUF|broken/i);
    }
    expect(texts.waiting).toBe(0);
    await rm(folder, { recursive: true });
  });

  it("fails who waits when it is closed", async () => {
    const texts = start();
    await texts.encode(user("a"), false, never);
    const waiting = expect(
      texts.encode(user("long ".repeat(200_000)), false, never),
    ).rejects.toMatchObject({ code: Code.Unavailable });
    await texts.close();
    await waiting;
  });

  it("knows which messages are long", () => {
    expect(PromptTexts.isLong([{ text: "x".repeat(8_192) }])).toBe(false);
    expect(PromptTexts.isLong([{ text: "x".repeat(4_096) }, { text: "x".repeat(4_097) }])).toBe(
      true,
    );
  });
});
