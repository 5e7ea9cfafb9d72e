/** The clients that people point at an OpenAI-compatible address. */
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { generateText, streamText } from "ai";
import OpenAI from "openai";
import { describe, expect, inject, it } from "vitest";
import { embedded } from "../../src/embedded-model.js";
import { answer, followUp, question } from "../support/conversation.js";

const baseURL = `${inject("gatewayUrl")}/v1`;
const apiKey = inject("gatewayKey");
const { model } = embedded;
const fixed = { model, temperature: 0, max_tokens: 40 } as const;

describe("openai for JavaScript", () => {
  const client = new OpenAI({ baseURL, apiKey, maxRetries: 0 });

  it("lists and gets models", async () => {
    const { data } = await client.models.list();
    expect(data.map((entry) => entry.id)).toContain(model);
    expect((await client.models.retrieve(model)).id).toBe(model);
    await expect(client.models.retrieve("nobody")).rejects.toMatchObject({
      status: 404,
      code: "model_not_found",
    });
  });

  it("gets an answer with its usage", async () => {
    const completion = await client.chat.completions.create({
      ...fixed,
      messages: [{ role: "user", content: question }],
    });
    expect(completion.choices[0]?.message.content?.trim()).toMatch(answer);
    expect(completion.choices[0]?.finish_reason).toBe("stop");
    expect(completion.usage?.prompt_tokens).toBeGreaterThan(20);
  });

  it("continues the session of a whole history, whose earlier tokens come from the cache", async () => {
    const headers = { "x-session-id": `openai-${Date.now()}` };
    const first = [{ role: "user", content: question }] as const;
    const one = await client.chat.completions.create(
      { ...fixed, messages: [...first] },
      { headers },
    );
    const reply = one.choices[0]?.message.content ?? "";
    const stream = await client.chat.completions.create(
      {
        ...fixed,
        stream: true,
        stream_options: { include_usage: true },
        messages: [
          ...first,
          { role: "assistant", content: reply },
          { role: "user", content: followUp },
        ],
      },
      { headers },
    );
    let text = "";
    let cached = 0;
    for await (const chunk of stream) {
      text += chunk.choices[0]?.delta.content ?? "";
      cached = chunk.usage?.prompt_tokens_details?.cached_tokens ?? cached;
    }
    expect(text.trim()).toMatch(answer);
    expect(cached).toBeGreaterThan(20);
  });

  it("gets errors in OpenAI's shape", async () => {
    const wrongKey = new OpenAI({ baseURL, apiKey: "wrong", maxRetries: 0 });
    await expect(wrongKey.models.list()).rejects.toMatchObject({
      status: 401,
      code: "invalid_api_key",
    });
    const messages = [{ role: "user" as const, content: "hi" }];
    await expect(
      client.chat.completions.create({ model: "nobody", messages }),
    ).rejects.toMatchObject({ status: 404, code: "model_not_found" });
    await expect(
      client.chat.completions.create({ model, messages, temperature: 9 }),
    ).rejects.toMatchObject({ status: 400, param: "temperature" });
  });
});

describe("the ai package with an OpenAI-compatible provider", () => {
  const provider = createOpenAICompatible({
    name: "leanedge",
    baseURL,
    apiKey,
    includeUsage: true,
  });

  it("generates and streams text", async () => {
    const whole = await generateText({
      model: provider(model),
      prompt: question,
      temperature: 0,
      maxOutputTokens: 40,
    });
    expect(whole.text.trim()).toMatch(answer);
    const streamed = streamText({
      model: provider(model),
      prompt: question,
      temperature: 0,
      maxOutputTokens: 40,
    });
    let text = "";
    for await (const piece of streamed.textStream) text += piece;
    expect(text.trim()).toMatch(answer);
    expect((await streamed.usage).inputTokens).toBeGreaterThan(20);
  });
});
