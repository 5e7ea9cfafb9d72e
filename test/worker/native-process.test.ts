/** `leanedge worker --engine cuda` on a machine without a GPU: the addon, over the scalar reference as its library. */
import { execFile } from "node:child_process";
import { mkdtemp, rm, symlink } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { promisify } from "node:util";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { embedded } from "../../src/embedded-model.js";
import { libraryName } from "../../src/engine/cuda/addon.js";
import { Backend, FinishReason, Role } from "../../src/gen/leanedge/v1/session_pb.js";
import { needsCompiler } from "../support/requirement.js";
import { openWorkerClient, startWorkerProcess } from "../support/worker-process.js";

const root = resolve(import.meta.dirname, "../..");
const built = join(root, "gpu-worker/build/addon");
const testMsMax = 240_000;

describe.skipIf(needsCompiler.missing)(
  `leanedge worker --engine cuda${needsCompiler.note}`,
  { timeout: testMsMax },
  () => {
    let folder = "";
    let addon = "";

    beforeAll(async () => {
      await promisify(execFile)(join(root, "scripts/build-addon.sh"));
      folder = await mkdtemp(join(tmpdir(), "leanedge-native-"));
      addon = join(folder, "leanedge.node");
      await symlink(join(built, "leanedge.node"), addon);
    }, testMsMax);

    afterAll(async () => {
      await rm(folder, { recursive: true, force: true });
    });

    it("says that there is no library beside the addon, then serves with one", async () => {
      await expect(startWorkerProcess("--engine", "cuda", "--cuda-addon", addon)).rejects.toThrow(
        `there is no file ${join(folder, libraryName)}`,
      );
      await symlink(join(built, "libleanedge_reference.so"), join(folder, libraryName));
      const worker = await startWorkerProcess("--engine", "cuda", "--cuda-addon", addon);
      try {
        const client = openWorkerClient(worker.url, "2");
        expect((await client.getStatus({})).backend).toBe(Backend.REFERENCE);
        const stream = client.generate({
          sequenceId: "native",
          generation: 1n,
          model: embedded.model,
          messages: [{ role: Role.USER, text: "Say hello." }],
          sampling: { maxTokens: 4, temperature: 0 },
        });
        let finish = FinishReason.UNSPECIFIED;
        for await (const { event } of stream) {
          if (event.case === "finished") finish = event.value.finishReason;
        }
        expect([FinishReason.LENGTH, FinishReason.STOP]).toContain(finish);
      } finally {
        await worker.kill();
      }
    });
  },
);
