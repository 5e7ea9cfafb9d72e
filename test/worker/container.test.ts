/**
 * The container recipe of a GPU worker, as far as it can be checked without a container engine: what it copies and runs is
 * there, and a folder with nothing but that serves, says that it is healthy, and ends in order. The scalar reference
 * stands for the CUDA engine.
 */
import { execFile, spawn } from "node:child_process";
import { existsSync, readFileSync, statSync } from "node:fs";
import { cp, mkdir, mkdtemp, rm, symlink, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { dirname, join, resolve } from "node:path";
import { promisify } from "node:util";
import { afterAll, beforeAll, describe, expect, it, onTestFinished } from "vitest";
import { embeddedFile } from "../../src/embedded-model.js";
import { needsCompiler } from "../support/requirement.js";

const root = resolve(import.meta.dirname, "../..");
const run = promisify(execFile);
/** Compiling the addon, and starting on a busy machine. */
const testMsMax = 240_000;
/** Where the recipe puts what it copies. */
const home = "/opt/leanedge";

/** Instructions of the recipe, continued lines joined: keyword and rest. */
function instructions(): [string, string][] {
  const text = readFileSync(join(root, "gpu-worker/Containerfile"), "utf8");
  return text
    .replace(/^#.*\n/gm, "")
    .replace(/\\\n/g, " ")
    .split("\n")
    .filter((line) => line.trim() !== "")
    .map((line) => {
      const [, keyword = "", rest = ""] = /^(\w+)\s+(.*)$/.exec(line) ?? [];
      return [keyword, rest.replace(/\s+/g, " ").trim()];
    });
}

/** The rest of the instructions with a keyword; of the last stage only, if asked. */
function all(keyword: string, lastStage = false): string[] {
  const list = instructions();
  const from = lastStage ? list.map(([word]) => word).lastIndexOf("FROM") : 0;
  return list
    .slice(from)
    .filter(([word]) => word === keyword)
    .map(([, rest]) => rest);
}

/** Paths of a COPY: sources, then the target. */
function paths(rest: string): { sources: string[]; target: string } {
  const words = rest.split(" ").filter((word) => !word.startsWith("--"));
  return { sources: words.slice(0, -1), target: words.at(-1) ?? "" };
}

/** The program of an instruction in JSON form. */
function program(rest: string): string[] {
  return JSON.parse(rest.slice(rest.indexOf("["))) as string[];
}

describe("the container recipe of a GPU worker", () => {
  it("copies and runs what is there, and leaves none of it out", () => {
    const ignored = readFileSync(join(root, "gpu-worker/.containerignore"), "utf8")
      .split("\n")
      .filter((line) => line !== "" && !line.startsWith("#"));
    const sources = all("COPY")
      .filter((rest) => !rest.includes("--from="))
      .flatMap((rest) => paths(rest).sources);
    expect(sources).toContain("src");
    for (const source of sources) {
      expect(existsSync(join(root, source)), source).toBe(true);
      expect(ignored, source).not.toContain(source.split("/")[0]);
    }
    const scripts = all("RUN").flatMap((rest) => rest.match(/scripts\/[\w.-]+/g) ?? []);
    expect(scripts).toContain("scripts/build-cuda.sh");
    for (const script of scripts) {
      expect(statSync(join(root, script)).mode & 0o111, script).not.toBe(0);
    }
  });

  it("runs the Node that is tested, as a user without rights", () => {
    const pinned = JSON.parse(readFileSync(join(root, "package.json"), "utf8")) as {
      devDependencies: Record<string, string>;
    };
    const images = all("FROM");
    expect(images.length).toBe(2);
    for (const image of images) {
      expect(image).toContain(`node:${pinned.devDependencies["node"] ?? ""}-`);
    }
    expect(
      all("USER", true)
        .map(Number)
        .every((id) => id > 0),
    ).toBe(true);
    expect(all("STOPSIGNAL", true)).toEqual(["SIGTERM"]);
  });
});

describe.skipIf(needsCompiler.missing)(
  `what the container of a GPU worker holds${needsCompiler.note}`,
  { timeout: testMsMax },
  () => {
    let folder = "";

    beforeAll(async () => {
      await run(join(root, "scripts/build-addon.sh"));
      folder = await mkdtemp(join(tmpdir(), "leanedge-container-"));
      const built = join(root, "gpu-worker/build/addon");
      await mkdir(join(folder, "lib"));
      await cp(join(built, "leanedge.node"), join(folder, "lib/leanedge.node"));
      await cp(join(built, "libleanedge_reference.so"), join(folder, "lib/libleanedge_cuda.so"));
      await symlink(join(root, "node_modules"), join(folder, "node_modules"));
      for (const rest of all("COPY", true).filter((each) => !each.includes("--from="))) {
        const { sources, target } = paths(rest);
        for (const source of sources) {
          const to = target === "./" ? join(folder, source) : join(folder, target);
          await mkdir(dirname(to), { recursive: true });
          await cp(join(root, source), to, { recursive: true });
        }
      }
    }, testMsMax);

    afterAll(async () => {
      await rm(folder, { recursive: true, force: true });
    });

    it("serves, is healthy, and ends with 0 when it is told to", async () => {
      const token = join(folder, "token");
      await writeFile(token, "a-token-of-sixteen-characters-or-more");
      const set = all("ENV", true)
        .flatMap((rest) => rest.split(" "))
        .map((pair) => pair.replace(home, folder).split("=") as [string, string]);
      const [command = "", ...given] = program(all("ENTRYPOINT", true)[0] ?? "[]").map((word) =>
        word.replace("0.0.0.0:9000", "127.0.0.1:0").replace("/run/secrets/worker-token", token),
      );
      expect(command).toBe("node");
      const child = spawn(
        process.execPath,
        [...given, "--model", join(root, embeddedFile), "--memory", "256"],
        { cwd: folder, env: { PATH: process.env["PATH"], ...Object.fromEntries(set) } },
      );
      onTestFinished(() => {
        child.kill("SIGKILL");
      });
      const exited = new Promise<number | null>((done) => child.once("exit", done));
      let said = "";
      const port = await new Promise<string>((done, fail) => {
        const look = (chunk: Buffer): void => {
          said += chunk.toString("utf8");
          const found = /serves \S+ at http:\/\/127\.0\.0\.1:(\d+)/.exec(said)?.[1];
          if (found !== undefined) done(found);
        };
        child.stdout.on("data", look);
        child.stderr.on("data", look);
        void exited.then((code) => {
          fail(new Error(`it ended with ${code}:\n${said}`));
        });
      });
      const [, ...check] = program(all("HEALTHCHECK", true)[0] ?? "[]").map((word) =>
        word.replace(":9000/", `:${port}/`),
      );
      await run(process.execPath, check);
      child.kill("SIGTERM");
      expect(await exited).toBe(0);
      await expect(run(process.execPath, check)).rejects.toThrow();
    });
  },
);
