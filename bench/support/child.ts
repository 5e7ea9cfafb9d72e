/**
 * Fresh processes: what one variant has warmed up, grown or worn must not reach the next. A child
 * reads its workload from the file that its first argument names, and prints what it measured as its
 * last line.
 */
import { spawn } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { basename, join } from "node:path";
import { fileURLToPath } from "node:url";

/** One process at most this long: wllama with a large model on a busy machine takes minutes. */
const processMsMax = 600_000;

/** Runs a script of this folder's neighbours on a workload, and gives what it measured. */
export async function runChild<T>(script: URL, workload: object): Promise<T> {
  const folder = mkdtempSync(join(tmpdir(), "leanedge-bench-"));
  const path = fileURLToPath(script);
  try {
    const file = join(folder, "workload.json");
    writeFileSync(file, JSON.stringify(workload));
    const child = spawn(process.execPath, ["--import", "tsx", path, file], {
      stdio: ["ignore", "pipe", "inherit"],
      timeout: processMsMax,
    });
    let output = "";
    child.stdout.setEncoding("utf8").on("data", (text: string) => (output += text));
    const code = await new Promise<number | null>((resolve, reject) => {
      child.on("error", reject);
      child.on("close", resolve);
    });
    const last = output.trimEnd().split("\n").at(-1);
    if (code !== 0 || last === undefined) {
      throw new Error(`${basename(path)} ended with ${code ?? "a signal"}`);
    }
    return JSON.parse(last) as T;
  } finally {
    rmSync(folder, { recursive: true });
  }
}

/** Is this file the program that was started? */
export function isProgram(moduleUrl: string): boolean {
  return process.argv[1] === fileURLToPath(moduleUrl);
}

/** The child's side: workload in, measurement out, then exits. The workload is the parent's word. */
export async function runAsChild(measure: (workload: never) => Promise<object>): Promise<void> {
  const path = process.argv[2];
  if (path === undefined) throw new Error("the workload's path is missing");
  const measurement = await measure(JSON.parse(readFileSync(path, "utf8")) as never);
  // Peers keep handles open; what matters has been written when the callback comes.
  process.stdout.write(`\n${JSON.stringify(measurement)}\n`, () => process.exit(0));
}

/**
 * Runs every variant once a round, in a fresh process each, the order reversed every other round, so
 * that a machine that grows warmer or busier favours none. After the first round none begins that
 * would, if it took as long as the one before, end after `deadlineMs` of performance.now().
 */
export async function alternate<V extends { rounds: number }>(
  variants: readonly V[],
  run: (variant: V, round: number) => Promise<void>,
  deadlineMs = Infinity,
): Promise<void> {
  const count = variants.reduce((max, variant) => Math.max(max, variant.rounds), 0);
  let begin = performance.now();
  for (let round = 0; round < count; round++) {
    const now = performance.now();
    if (round > 0 && now + (now - begin) > deadlineMs) return;
    begin = now;
    const order = round % 2 === 0 ? variants : [...variants].reverse();
    for (const variant of order) if (round < variant.rounds) await run(variant, round);
  }
}
