/**
 * `npm run test:conformance`: Connect's conformance runner against the gateway's adapter in workerd and the gRPC front.
 *
 * Connect and gRPC-web go to workerd over HTTP/1.1; everything over HTTP/2 without TLS, native gRPC included, goes
 * through the front. Arguments are passed to the runner (`--run '**\/timeouts/**' --trace`); `--install` fetches and
 * builds the runner, and nothing else. Exits with the runner's status: failures, and listed failures that have begun
 * to pass, are both errors.
 */
import { spawn } from "node:child_process";
import path from "node:path";
import { startGrpcFront } from "../../src/front/index.js";
import { startWorkerd } from "../support/workerd.js";
import { conformanceVersion, installRunner, root, writeDescriptors } from "./runner.js";

const here = path.join(root, "test/conformance");

/** How long the suite may run, in milliseconds; it takes about 75 s on two idle cores. */
const suiteMsMax = 5 * 60_000;
/** How many failed cases are repeated at most. */
const repeatedCasesMax = 4;

/** What one run of the runner came to. */
interface SuiteResult {
  /** Its exit status. */
  status: number;
  /** How many cases passed. */
  passed: number;
  /** Full names of the cases that failed and are not listed. */
  failed: string[];
}

async function runSuite(
  runner: string,
  ports: { http1: number; http2: number },
  args: readonly string[],
): Promise<SuiteResult> {
  const child = spawn(
    runner,
    [
      ...["--mode", "server", "--conf", path.join(here, "suite.yaml")],
      ...["--parallel", "8", "--max-servers", "2"],
      ...args,
      "--",
      ...[process.execPath, "--import", "tsx", path.join(here, "server-under-test.ts")],
      ...[String(ports.http1), String(ports.http2)],
    ],
    { cwd: root, stdio: ["ignore", "pipe", "inherit"], timeout: suiteMsMax },
  );
  let output = "";
  child.stdout.setEncoding("utf8").on("data", (text: string) => {
    process.stdout.write(text);
    output += text;
  });
  return new Promise((resolve, reject) => {
    child.on("error", reject);
    child.on("close", (code, signal) => {
      if (signal !== null) {
        console.error(`the conformance suite was ended by ${signal} (bound: ${suiteMsMax} ms)`);
      }
      const failed = [...output.matchAll(/^FAILED: (.+):$/gm)].map((match) => match[1] ?? "");
      const passed = Number(/^(\d+) passed,/m.exec(output)?.[1] ?? 0);
      resolve({ status: code ?? 1, passed, failed });
    });
  });
}

/**
 * The suite, with one repetition of a few failed cases: some have deadlines of a tenth of a second, which a machine that
 * stands still misses. A case that fails for a reason of its own fails again.
 */
async function runWithRepetition(
  runner: string,
  ports: { http1: number; http2: number },
): Promise<number> {
  const known = ["--known-failing", `@${path.join(here, "known-failing.txt")}`];
  const first = await runSuite(runner, ports, [...known, ...process.argv.slice(2)]);
  if (first.failed.length === 0 || first.failed.length > repeatedCasesMax) {
    return first.status;
  }
  console.log(`repeating ${first.failed.length} failed cases`);
  const again = await runSuite(
    runner,
    ports,
    first.failed.flatMap((name) => ["--run", name]),
  );
  // The last line of the output is the total of both runs.
  console.log(`${first.passed + again.passed} passed, ${again.failed.length} failed`);
  return again.status;
}

console.log(`connectconformance ${conformanceVersion}, server mode`);
const runner = await installRunner();
await writeDescriptors();
if (process.argv[2] === "--install") process.exit();
const worker = await startWorkerd("test/conformance/wrangler.toml");
const front = await startGrpcFront({
  port: 0,
  targetUrl: worker.url,
  limits: { drainMsMax: 1000 },
});
try {
  const ports = { http1: worker.port, http2: front.port };
  process.exitCode = await runWithRepetition(runner, ports);
} finally {
  await front.close();
  await worker.stop();
}
