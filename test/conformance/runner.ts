import { execFile } from "node:child_process";
import { access, mkdir } from "node:fs/promises";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";

const run = promisify(execFile);

/** The runner that is used, from the Go module proxy; its protos come with it. */
export const conformanceVersion = "v1.0.7";

/** The repository's root. */
export const root = path.resolve(path.dirname(fileURLToPath(import.meta.url)), "../..");

/** What the runner and the Worker under test need; never committed, since it is not ours. */
const cache = path.join(root, ".cache/conformance");

/** How long the Go tool may take to fetch and build the runner, in milliseconds. */
const buildMsMax = 8 * 60_000;

/** Path of a program among the dev dependencies. */
export function program(name: string): string {
  return path.join(root, "node_modules/.bin", name);
}

/** Builds the runner unless it is there. Resolves with its path; rejects when Go is missing. */
export async function installRunner(): Promise<string> {
  const folder = path.join(cache, conformanceVersion);
  const binary = path.join(folder, "connectconformance");
  try {
    await access(binary);
    return binary;
  } catch {
    await mkdir(folder, { recursive: true });
  }
  await go(
    [
      "install",
      "-p",
      "2",
      `connectrpc.com/conformance/cmd/connectconformance@${conformanceVersion}`,
    ],
    { GOBIN: folder },
  );
  return binary;
}

/** Writes the service's descriptors to where the Worker imports them. */
export async function writeDescriptors(): Promise<void> {
  const answer = await go([
    "mod",
    "download",
    "-json",
    `connectrpc.com/conformance@${conformanceVersion}`,
  ]);
  const { Dir: folder } = JSON.parse(answer) as { Dir: string };
  await mkdir(cache, { recursive: true });
  await run(program("buf"), [
    "build",
    path.join(folder, "proto"),
    "--as-file-descriptor-set",
    "--output",
    path.join(cache, "service.binpb"),
  ]);
}

async function go(args: readonly string[], env: Record<string, string> = {}): Promise<string> {
  try {
    const { stdout } = await run("go", args, {
      cwd: root,
      env: { ...process.env, GOFLAGS: "-mod=mod", ...env },
      timeout: buildMsMax,
    });
    return stdout;
  } catch (cause) {
    throw new Error(`go ${args.join(" ")} failed; the conformance runner needs Go 1.24 or later`, {
      cause,
    });
  }
}
