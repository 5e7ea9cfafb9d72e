/** A gateway that is bound to a worker process instead of its own engine. */
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { embedded } from "../../src/embedded-model.js";
import { createLeanedgeClient } from "../../src/client/index.js";
import { runOne } from "../e2e/talk.js";
import { answer, followUp, question } from "../support/conversation.js";
import { startGateway, type RunningGateway } from "../support/running-gateway.js";
import { freePort } from "../support/free-port.js";
import {
  openWorkerClient,
  startWorkerProcess,
  type RunningWorkerProcess,
} from "../support/worker-process.js";

const token = "a-token-of-some-length";
const testMsMax = 180_000;
const sampling = { temperature: 0 };

let folder: string;
let listen: readonly string[];
let worker: RunningWorkerProcess;
let gateway: RunningGateway;

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "leanedge-bound-"));
  const tokenFile = join(folder, "token");
  await writeFile(tokenFile, token);
  listen = ["--listen", `127.0.0.1:${await freePort()}`, "--token-file", tokenFile];
  worker = await startWorkerProcess(...listen);
  gateway = await startGateway(
    "--worker",
    `${embedded.model}=${worker.url}`,
    "--worker-token-file",
    tokenFile,
  );
}, testMsMax);

afterAll(async () => {
  await gateway.close();
  await worker.kill();
  await rm(folder, { recursive: true });
});

describe("a gateway bound to a worker process", { timeout: testMsMax }, () => {
  it("answers from it, and finds earlier turns in its cache", async () => {
    const client = createLeanedgeClient({ baseUrl: gateway.url, key: gateway.key });
    const status = openWorkerClient(worker.url, "1.1", token);
    const before = await status.getStatus({});
    const first = await runOne(client, "bound", 1, { text: question, maxTokens: 40 }, sampling);
    expect(first.text.trim()).toMatch(answer);
    const second = await runOne(client, "bound", 2, { text: followUp, maxTokens: 40 }, sampling);
    expect(second.text.trim()).toMatch(answer);
    // The end token was drawn and cut off again: all else is there.
    expect(second.cachedTokens).toBeGreaterThanOrEqual(
      first.promptTokens + first.completionTokens - 1,
    );
    const after = await status.getStatus({});
    expect(Number(after.generatedTokens - before.generatedTokens)).toBe(
      first.completionTokens + second.completionTokens,
    );
  });

  it("brings a worker that died its whole log with the next turn", async () => {
    const client = createLeanedgeClient({ baseUrl: gateway.url, key: gateway.key });
    const first = await runOne(client, "replayed", 1, { text: question, maxTokens: 40 }, sampling);
    expect(first.text.trim()).toMatch(answer);
    await worker.kill();
    worker = await startWorkerProcess(...listen);
    const second = await runOne(client, "replayed", 2, { text: followUp, maxTokens: 40 }, sampling);
    expect(second.text.trim()).toMatch(answer);
    expect(second.promptTokens).toBeGreaterThan(first.promptTokens + first.completionTokens);
  });

  it("stops the worker when its client leaves", async () => {
    const status = openWorkerClient(worker.url, "1.1", token);
    const leaving = new AbortController();
    const response = await fetch(`${gateway.url}/v1/chat/completions`, {
      method: "POST",
      headers: { authorization: `Bearer ${gateway.key}`, "content-type": "application/json" },
      body: JSON.stringify({
        model: embedded.model,
        stream: true,
        max_tokens: 2_000,
        messages: [{ role: "user", content: "Tell a story without an end." }],
      }),
      signal: leaving.signal,
    });
    await response.body?.getReader().read();
    leaving.abort();
    await expect
      .poll(async () => (await status.getStatus({})).running, { timeout: 10_000 })
      .toBe(0);
    const { steps } = await status.getStatus({});
    await new Promise((resolve) => setTimeout(resolve, 300));
    expect((await status.getStatus({})).steps).toBe(steps);
  });
});
