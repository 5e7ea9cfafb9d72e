/** `buf curl`, in its three protocols. */
import { execFile } from "node:child_process";
import { resolve } from "node:path";
import { promisify } from "node:util";
import { describe, expect, inject, it } from "vitest";
import { answer, question } from "../support/conversation.js";

const run = promisify(execFile);
const root = resolve(import.meta.dirname, "../..");
const url = inject("gatewayUrl");
const front = `http://${inject("grpcAddress")}`;
const key = inject("gatewayKey");

/** Streamed answers are JSON objects one after the other. */
function jsonObjects(text: string): Record<string, unknown>[] {
  return text
    .split(/(?<=^\})\n(?=\{)/m)
    .filter((part) => part.trim() !== "")
    .map((part) => JSON.parse(part) as Record<string, unknown>);
}

async function bufCurl(protocol: string, baseUrl: string, call: string, request: object) {
  const http2 = protocol === "grpc" ? ["--http2-prior-knowledge"] : [];
  return run(
    resolve(root, "node_modules/.bin/buf"),
    [
      "curl",
      "--schema",
      "proto",
      "--protocol",
      protocol,
      ...http2,
      "--header",
      `authorization: Bearer ${key}`,
      "--data",
      JSON.stringify(request),
      `${baseUrl}/${call}`,
    ],
    { cwd: root, timeout: 60_000 },
  );
}

describe.each([
  ["connect", url],
  ["grpcweb", url],
  ["grpc", front],
])("buf curl --protocol %s", (protocol, baseUrl) => {
  it("streams an answer", async () => {
    const { stdout } = await bufCurl(protocol, baseUrl, "leanedge.v1.SessionService/Generate", {
      sessionId: `buf-${protocol}-${Date.now()}`,
      messages: [{ role: "ROLE_USER", text: question }],
      sampling: { temperature: 0, maxTokens: 40 },
    });
    const events = jsonObjects(stdout);
    const text = events
      .map((event) => (event["delta"] as { text?: string } | undefined)?.text ?? "")
      .join("");
    expect(text.trim()).toMatch(answer);
    expect(events[0]).toHaveProperty("started");
    expect(events.at(-1)).toHaveProperty("finished.finishReason", "FINISH_REASON_STOP");
  });

  it("shows code and message of a refusal", async () => {
    await expect(
      bufCurl(protocol, baseUrl, "leanedge.v1.SessionService/GetSession", { sessionId: "nobody" }),
    ).rejects.toMatchObject({ stderr: expect.stringMatching(/not_found/) as unknown });
  });
});
