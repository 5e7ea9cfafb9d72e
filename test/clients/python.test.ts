/** grpcio and openai for Python, in an environment that `npm run clients:python` makes. */
import { execFile } from "node:child_process";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { promisify } from "node:util";
import { describe, expect, inject, it } from "vitest";
import { embedded } from "../../src/embedded-model.js";
import { answer, question } from "../support/conversation.js";
import { needsPythonClients, pythonPath } from "../support/requirement.js";

const run = promisify(execFile);
const root = resolve(import.meta.dirname, "../..");
const python = resolve(root, pythonPath);
const scripts = resolve(import.meta.dirname, "python");

describe.skipIf(needsPythonClients.missing)(`Python clients${needsPythonClients.note}`, () => {
  it("grpcio streams an answer and gets status codes", async () => {
    const generated = await mkdtemp(join(tmpdir(), "leanedge-python-"));
    try {
      const files = ["session", "sampling", "model"].map((name) => `leanedge/v1/${name}.proto`);
      const out = ["--python_out", "--grpc_python_out"].map((option) => `${option}=${generated}`);
      await run(python, ["-m", "grpc_tools.protoc", "-Iproto", ...out, ...files], { cwd: root });
      const { stdout } = await run(python, [
        join(scripts, "grpc_client.py"),
        generated,
        inject("grpcAddress"),
        inject("gatewayKey"),
        question,
      ]);
      const result = JSON.parse(stdout) as { answer: string; kinds: string[]; refusal: string };
      expect(result.answer.trim()).toMatch(answer);
      expect(result.kinds[0]).toBe("started");
      expect(result.kinds.at(-1)).toBe("finished");
      expect(result.refusal).toBe("NOT_FOUND");
    } finally {
      await rm(generated, { recursive: true });
    }
  });

  it("openai answers, streams and refuses", async () => {
    const { stdout } = await run(python, [
      join(scripts, "openai_client.py"),
      `${inject("gatewayUrl")}/v1`,
      inject("gatewayKey"),
      embedded.model,
      question,
    ]);
    const result = JSON.parse(stdout) as Record<string, unknown>;
    expect(String(result["answer"]).trim()).toMatch(answer);
    expect(String(result["streamed"]).trim()).toMatch(answer);
    expect(result["promptTokens"]).toBeGreaterThan(20);
    expect(result["refusal"]).toBe(404);
  });
});
