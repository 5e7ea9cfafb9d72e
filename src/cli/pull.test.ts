import { spawn } from "node:child_process";
import { readFile } from "node:fs/promises";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { sha256Of } from "../pull/testing/hub-server.js";
import { TestPull, tinyModelBytes } from "../pull/testing/test-pull.js";
import { packagePath } from "./repository.js";

let test: TestPull;
beforeEach(async () => {
  test = await TestPull.start();
});
afterEach(() => test.stop());

interface Ended {
  readonly code: number | null;
  readonly output: string;
  readonly errors: string;
}

/** Runs the command; `signal` is sent as soon as its errors match `when`. */
function leanedge(
  args: readonly string[],
  stop?: { readonly when: RegExp; readonly signal: NodeJS.Signals },
): Promise<Ended> {
  const child = spawn(
    process.execPath,
    ["--import", "tsx", packagePath("src/cli/main.ts"), ...args],
    {
      stdio: ["ignore", "pipe", "pipe"],
      env: {
        ...process.env,
        LEANEDGE_MODELS_DIR: test.folder,
        HF_ENDPOINT: test.hub.url,
        HF_TOKEN: "",
      },
    },
  );
  let [output, errors] = ["", ""];
  let sent = false;
  child.stdout.on("data", (text: Buffer) => (output += text.toString("utf8")));
  child.stderr.on("data", (text: Buffer) => {
    errors += text.toString("utf8");
    if (sent || stop?.when.test(errors) !== true) return;
    // A second one would end the process at once.
    sent = child.kill(stop.signal);
  });
  return new Promise((resolve, reject) => {
    child.once("error", reject);
    child.once("close", (code) => resolve({ code, output, errors }));
  });
}

describe("leanedge pull", () => {
  it("prints the path, and what it did to the errors; models list and remove know it", async () => {
    const pulled = await leanedge(["pull", "owner/model:Q8_0"]);
    expect(pulled.errors).toMatch(
      /Licence: apache-2.0\n.*100 %.*\n.*is there, SHA-256 .* is right\n$/s,
    );
    expect(pulled.code).toBe(0);
    expect(new Uint8Array(await readFile(pulled.output.trim()))).toEqual(tinyModelBytes);

    const listed = await leanedge(["models", "list"]);
    expect(listed.output).toContain("owner/model:model-Q8_0.gguf  0.0 MB  apache-2.0\n");
    expect(listed.output).toContain(pulled.output.trim());

    const removed = await leanedge(["models", "remove", "owner/model"]);
    expect(removed.output).toMatch(/^owner\/model:model-Q8_0.gguf deleted/);
    expect(await test.fileNames()).toEqual([]);
  });

  it("refuses in one line", async () => {
    const refused = await leanedge(["pull", "owner/model", "--sha256", "0".repeat(64)]);
    expect(refused.code).toBe(1);
    expect(refused.output).toBe("");
    expect(refused.errors).toBe(
      `leanedge: SHA-256 of owner/model:model-Q8_0.gguf is ${sha256Of(tinyModelBytes)}, expected ${"0".repeat(64)}\n`,
    );
  });

  it("stops on a signal, leaves no lock, and goes on with the next call", async () => {
    test.hub.storageFaults.push({ kind: "stall", afterBytes: 20_000 });
    const stopped = await leanedge(["pull", "owner/model"], { when: /fetching/, signal: "SIGINT" });
    expect(stopped.errors).toMatch(/leanedge: stopped; the same command goes on from here\n$/);
    expect(stopped.code).toBe(1);
    const part = "owner--model--model-Q8_0.gguf.part";
    expect(await test.fileNames()).toEqual([part, `${part}.json`]);
    await test.pull();
    expect(test.hub.storageSeen[1]?.range).toBe("bytes=20000-");
  });
});
