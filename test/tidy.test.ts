import { spawnSync } from "node:child_process";
import { fileURLToPath } from "node:url";
import { describe, expect, it } from "vitest";
import {
  blobBytesMax,
  fileLinesMax,
  findBannedWords,
  findDeadPaths,
  findForeignHosts,
  findLargeBlobs,
  findLongFiles,
  findOddNames,
  findUndocumentedExports,
  findUnexplainedFolders,
  findWrongHeadings,
  findWrongModes,
  modelBytesMax,
  prebuiltBytesMax,
  readRepository,
} from "../scripts/tidy.js";
import type { RepositoryFile } from "../scripts/tidy.js";

const root = fileURLToPath(new URL("..", import.meta.url));

function file(path: string, text = "", more: Partial<RepositoryFile> = {}): RepositoryFile {
  return { path, text, bytes: text.length, executable: false, ...more };
}

function isIgnored(path: string): boolean {
  return spawnSync("git", ["check-ignore", "--quiet", path], { cwd: root }).status === 0;
}

/** A source archive has no list of files to judge; clones and CI always have one. */
const isClone =
  process.env["LEANEDGE_CI"] === "1" ||
  spawnSync("git", ["rev-parse", "--git-dir"], { cwd: root }).status === 0;

describe.skipIf(!isClone)(
  "the repository (skipped outside a git clone: git lists its files)",
  () => {
    const files = isClone ? readRepository(root) : [];

    it("has no source file over the limit of lines", () => {
      expect(findLongFiles(files)).toEqual([]);
    });

    it("has no file over the limit of its folder", () => {
      expect(findLargeBlobs(files)).toEqual([]);
    });

    it("names only paths that exist in its Markdown", () => {
      expect(findDeadPaths(files, isIgnored)).toEqual([]);
    });

    it("has no leftover markers, machine paths or focused tests", () => {
      expect(findBannedWords(files)).toEqual([]);
    });

    it("takes packages from the public registry only", () => {
      expect(findForeignHosts(files)).toEqual([]);
    });

    it("explains every folder of the architecture", () => {
      expect(findUnexplainedFolders(files)).toEqual([]);
    });

    it("names its files in kebab-case", () => {
      expect(findOddNames(files)).toEqual([]);
    });

    it("marks scripts, and only scripts, as executable", () => {
      expect(findWrongModes(files)).toEqual([]);
    });

    it("has one first-level heading in each Markdown file", () => {
      expect(findWrongHeadings(files)).toEqual([]);
    });

    it("documents every export of src", () => {
      expect(findUndocumentedExports(files)).toEqual([]);
    });
  },
);

describe("a tidy rule", () => {
  it("counts lines, generated code aside", () => {
    const text = "x\n".repeat(fileLinesMax + 1);
    const long = [file("src/a.ts", text), file("src/gen/a.ts", text), file("docs/a.md", text)];
    expect(findLongFiles(long)).toEqual(["src/a.ts: 801 lines, at most 800"]);
    expect(findLongFiles([file("src/a.ts", "x\n".repeat(fileLinesMax))])).toEqual([]);
  });

  it("measures blobs by their folder", () => {
    const paths = {
      "docs/a.bin": blobBytesMax,
      "wasm/prebuilt/a.wasm": prebuiltBytesMax,
      "models/a.gguf": modelBytesMax,
    };
    for (const [path, bytes] of Object.entries(paths)) {
      expect(findLargeBlobs([file(path, "", { bytes })])).toEqual([]);
      expect(findLargeBlobs([file(path, "", { bytes: bytes + 1 })])).toHaveLength(1);
    }
  });

  it("finds dead paths in backticks and links, and lets patterns and build outputs be", () => {
    const text =
      "See `src/a.ts`, `src/gone.ts:3`, `src/*.ts`, `lost/*/b`, `docs/none/<name>.md`, `npm/run`,\n" +
      "`build/x`, `models/made/x.bin`, [a](../src/a.ts), [b](none.md#c) and [w](https://example.com/x).\n" +
      "```\n`src/in-a-block.ts`\n```\n";
    expect(
      findDeadPaths([file("wasm/x.md", "`src/a.cpp`"), file("wasm/src/a.cpp")], () => false),
    ).toEqual([]);
    const dead = findDeadPaths([file("docs/x.md", text), file("src/a.ts")], (path) =>
      path.startsWith("models/made"),
    );
    expect(dead).toEqual([
      "docs/x.md: names src/gone.ts:3, which does not exist",
      "docs/x.md: names docs/none/<name>.md, which does not exist",
      "docs/x.md: names docs/none.md, which does not exist",
    ]);
  });

  it.each([
    ["// TO" + "DO later"],
    ["it.sk" + "ip('x', () => {})"],
    ["describe.on" + "ly('x', () => {})"],
    ["cd /wo" + "rk/tree"],
    ["// @ts-" + "ignore"],
    ["// eslint-" + "disable-next-line no-console"],
    ["throw new Error('not implem" + "ented')"],
  ])("refuses %j", (line) => {
    expect(findBannedWords([file("src/a.ts", `const a = 1;\n${line}\n`)])).toHaveLength(1);
  });

  it.each([
    ["it.skipIf(noBrowser)('x (no browser)', () => {})"],
    ["// eslint-" + "disable-next-line no-console -- prints the key on purpose"],
    ["fetch('https://example.com/work/1')"],
    ["see connect-es#1117"],
  ])("accepts %j", (line) => {
    expect(findBannedWords([file("src/a.ts", line)])).toEqual([]);
  });

  it("finds other hosts in any lock file", () => {
    const lock = JSON.stringify({
      packages: {
        "": {},
        "node_modules/a": { resolved: "https://registry.npmjs.org/a/-/a-1.0.0.tgz" },
        "node_modules/b": { resolved: "https://mirror.example.com/b/-/b-1.0.0.tgz" },
      },
    });
    expect(findForeignHosts([file("bench/package-lock.json", lock)])).toEqual([
      "bench/package-lock.json: node_modules/b comes from https://mirror.example.com/b/-/b-1.0.0.tgz",
    ]);
  });

  it("wants a README or a head comment in an index", () => {
    const files = [
      file("engine/a.h"),
      file("wasm/README.md"),
      file("src/cli/main.ts", "#!/usr/bin/env node\n/** The command. */"),
      file("src/client/index.ts", "export {};"),
    ];
    expect(findUnexplainedFolders(files)).toEqual(["src/client", "engine"]);
  });

  it("knows which languages may use underscores", () => {
    const good = [
      "src/a-b.worker.test.ts",
      "engine/ops_ref.cpp",
      "train/data.py",
      ".ci/run",
      "README.md",
    ];
    const bad = ["src/aB.ts", "src/a_b.ts", "docs/Read.md", "engine/OpsRef.cpp"];
    expect(findOddNames([...good, ...bad].map((path) => file(path)))).toEqual(bad);
  });

  it("compares mode and first line", () => {
    const files = [
      file("a.sh", "#!/bin/sh", { executable: true }),
      file("b.sh", "#!/bin/sh"),
      file("c.ts", "", { executable: true }),
    ];
    expect(findWrongModes(files)).toEqual([
      "b.sh: not executable, has #!",
      "c.ts: executable without #!",
    ]);
  });

  it("counts headings outside code blocks", () => {
    const files = [file("a.md", "# A\n```sh\n# comment\n```\n"), file("b.md", "## B\n")];
    expect(findWrongHeadings(files)).toEqual(["b.md: 0 headings of the first level, wanted 1"]);
  });

  it("wants a doc comment on exports, not on what is private", () => {
    const text =
      "/** Why. */\nexport const a = 1;\nexport const b = 2;\n\nexport function c(): void {}\nvar d;";
    expect(findUndocumentedExports([file("src/a.ts", text)])).toEqual([
      "src/a.ts:5: export function c(): void {}",
    ]);
  });
});
