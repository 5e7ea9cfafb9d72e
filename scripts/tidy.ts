/**
 * The rules of this repository that formatter, linter and compiler do not know. Each rule is a pure
 * function over files, so that test/tidy.test.ts can show it a bad file as well as the repository.
 * An exception to a rule is a name in this file with its reason.
 */
import { execFileSync } from "node:child_process";
import { existsSync, readFileSync, statSync } from "node:fs";
import { basename, dirname, extname, join, normalize } from "node:path";
import ts from "typescript";

/** A file as the rules see it. */
export interface RepositoryFile {
  /** Path from the repository root, with forward slashes. */
  readonly path: string;
  /** Size in bytes. */
  readonly bytes: number;
  /** True if the owner may execute it. */
  readonly executable: boolean;
  /** Content as UTF-8; empty for files that are not text. */
  readonly text: string;
}

/** A file's text has at most this many lines: longer ones hold more than one idea. */
export const fileLinesMax = 800;

/** Most files are written by hand; what is larger bloats every clone for good. */
export const blobBytesMax = 256 * 1024;

/** The prebuilt WASM modules: code only, and Workers load them on every cold start. */
export const prebuiltBytesMax = 400 * 1024;

/** Static assets of Workers end at 25 MiB a file; larger models are sharded. */
export const modelBytesMax = 25 * 1024 * 1024;

/** Folders of the architecture; each says in a README or an index what lives there. */
export const architectureFolders: readonly string[] = [
  "proto",
  "src/gateway",
  "src/worker",
  "src/engine",
  "src/client",
  "src/cli",
  "src/front",
  "src/page",
  "src/pull",
  "engine",
  "wasm",
  "gpu-worker",
  "train",
  "bench",
  "test",
];

/** First segments that make a word in Markdown a path of this repository. */
const topFolders = new Set([
  ...architectureFolders.map((folder) => folder.split("/")[0]),
  ...["bin", "docs", "models", "schema", "scripts", ".ci"],
]);

const textExtensions = new Set(
  (
    ".ts .js .mjs .cjs .json .html .css .md .proto .toml .yaml .yml .sh .py .txt .cmake " +
    ".c .h .cpp .hpp .cu .cuh .svg"
  ).split(" "),
);

const sourceExtensions = new Set(
  ".ts .js .mjs .cjs .html .css .proto .sh .py .c .h .cpp .hpp .cu .cuh".split(" "),
);

/** Generated files: reviewed where they come from. */
function isGenerated(path: string): boolean {
  return path.startsWith("src/gen/") || basename(path) === "package-lock.json";
}

function isText(path: string): boolean {
  return (
    textExtensions.has(extname(path)) || extname(path) === "" || basename(path).startsWith(".")
  );
}

/** Reads what git tracks, and what it would track: files that are neither ignored nor deleted. */
export function readRepository(root: string): RepositoryFile[] {
  const listed = execFileSync(
    "git",
    ["ls-files", "-z", "--cached", "--others", "--exclude-standard"],
    { cwd: root, encoding: "utf8" },
  );
  const files: RepositoryFile[] = [];
  for (const path of new Set(listed.split("\0"))) {
    const full = join(root, path);
    if (path === "" || !existsSync(full)) continue;
    const { size, mode } = statSync(full);
    const text = isText(path) ? readFileSync(full, "utf8") : "";
    files.push({ path, bytes: size, executable: (mode & 0o100) !== 0, text });
  }
  return files;
}

/** Files longer than fileLinesMax lines. */
export function findLongFiles(files: readonly RepositoryFile[]): string[] {
  return files
    .filter((file) => sourceExtensions.has(extname(file.path)) && !isGenerated(file.path))
    .map((file) => ({ path: file.path, lines: file.text.split("\n").length - 1 }))
    .filter(({ lines }) => lines > fileLinesMax)
    .map(({ path, lines }) => `${path}: ${lines} lines, at most ${fileLinesMax}`);
}

/** Files larger than their folder allows. */
export function findLargeBlobs(files: readonly RepositoryFile[]): string[] {
  function limit(path: string): number {
    if (path.startsWith("models/")) return modelBytesMax;
    if (path.startsWith("wasm/prebuilt/")) return prebuiltBytesMax;
    return blobBytesMax;
  }
  return files
    .filter((file) => file.bytes > limit(file.path))
    .map((file) => `${file.path}: ${file.bytes} bytes, at most ${limit(file.path)}`);
}

/** Text without fenced code blocks, whose content is not prose. */
function prose(markdown: string): string {
  return markdown.replaceAll(/^(```|~~~)[\s\S]*?^\1\s*$/gm, "");
}

/**
 * Paths that Markdown names, in backticks or as a link, and that do not exist. A word in backticks
 * is taken for a path, from the root or from the file's own folder, if its first segment is a
 * folder of this repository; from a `*`, `<` or `{` on, a path is a pattern, and only the folder
 * before it is checked. `isIgnored` says whether git ignores a path: build outputs may be named
 * although they are not there yet.
 */
export function findDeadPaths(
  files: readonly RepositoryFile[],
  isIgnored: (path: string) => boolean,
): string[] {
  const known = new Set<string>();
  for (const { path } of files) {
    for (let at = path; at !== "."; at = dirname(at)) known.add(at);
  }
  const dead: string[] = [];
  for (const file of files) {
    if (extname(file.path) !== ".md") continue;
    const text = prose(file.text);
    const named = new Set<string>();
    for (const [, word = ""] of text.matchAll(/`([^`\s]+)`/g)) {
      if (word.includes("/") && topFolders.has(word.split("/")[0])) named.add(word);
    }
    for (const [, link = ""] of text.matchAll(/\]\(([^)\s#]+)(?:#[^)]*)?\)/g)) {
      if (!/^[a-z]+:/.test(link)) named.add(normalize(join(dirname(file.path), link)));
    }
    for (const name of named) {
      const fixed = name.replace(/:\d+$/, "").replace(/[^/]*[*<{].*$/, "");
      const path = fixed.replace(/\/+$/, "");
      const here = normalize(join(dirname(file.path), path));
      if (
        path !== "" &&
        !known.has(path) &&
        !known.has(here) &&
        !isIgnored(name.endsWith("/") ? `${path}/` : path)
      ) {
        dead.push(`${file.path}: names ${name}, which does not exist`);
      }
    }
  }
  return dead;
}

// Spelt in pieces, so that this file does not find itself.
const machineFolders = ["wo" + "rk", "fa" + "rm", "ho" + "me", "ro" + "ot", "Us" + "ers"];

/** Words that must not stay, each with what to do instead. */
const bannedWords: readonly { readonly pattern: RegExp; readonly instead: string }[] = [
  {
    pattern: new RegExp(
      `\\b(${["TO" + "DO", "FIX" + "ME", "XX" + "X", "HA" + "CK"].join("|")})\\b`,
    ),
    instead: "finish it, or describe the limit as a fact",
  },
  {
    pattern: new RegExp(["not (yet )?implem" + "ented", "lorem ip" + "sum"].join("|"), "i"),
    instead: "finish it, or refuse with the reason",
  },
  {
    pattern: new RegExp(
      `\\b(it|test|describe|suite)\\.(${["sk" + "ip", "on" + "ly", "to" + "do"].join("|")})\\b(?!If)`,
    ),
    instead: "use skipIf with the reason in the title",
  },
  { pattern: new RegExp("@ts-" + "(ignore|nocheck)"), instead: "mend the type" },
  {
    pattern: new RegExp("eslint-" + "disable(?!.* -- \\S)"),
    instead: "give the reason after ` -- `",
  },
  {
    pattern: new RegExp(`(^|[^\\w.])/(${machineFolders.join("|")})/`),
    instead: "no paths of one machine: use a relative path or an option",
  },
  {
    pattern: new RegExp("\\biss" + "ues? #?[1-9]\\b"),
    instead: "say what the change does, not where it was asked for",
  },
];

/** Lines with a word that must not stay. */
export function findBannedWords(files: readonly RepositoryFile[]): string[] {
  const found: string[] = [];
  for (const file of files) {
    if (isGenerated(file.path) || file.path === "LICENSE") continue;
    for (const [index, line] of file.text.split("\n").entries()) {
      for (const { pattern, instead } of bannedWords) {
        const match = pattern.exec(line);
        if (match !== null) {
          found.push(`${file.path}:${index + 1}: "${match[0].trim()}": ${instead}`);
        }
      }
    }
  }
  return found;
}

interface LockFile {
  readonly packages?: Readonly<Record<string, { readonly resolved?: string }>>;
}

/** Packages that a lock file takes from anywhere but the public npm registry. */
export function findForeignHosts(files: readonly RepositoryFile[]): string[] {
  const registry = "https://registry.npmjs.org/";
  return files
    .filter((file) => basename(file.path) === "package-lock.json")
    .flatMap((file) =>
      Object.entries((JSON.parse(file.text) as LockFile).packages ?? {})
        .filter(([, { resolved }]) => resolved !== undefined && !resolved.startsWith(registry))
        .map(([name, { resolved = "" }]) => `${file.path}: ${name} comes from ${resolved}`),
    );
}

/** Folders of the architecture that exist and do not say what lives in them. */
export function findUnexplainedFolders(files: readonly RepositoryFile[]): string[] {
  return architectureFolders.filter((folder) => {
    const inside = files.filter((file) => file.path.startsWith(`${folder}/`));
    const explains = inside.some(
      ({ path, text }) =>
        path === `${folder}/README.md` ||
        ([`${folder}/index.ts`, `${folder}/main.ts`].includes(path) &&
          /^(#!.*\n)?\/\*\*/.test(text)),
    );
    return inside.length > 0 && !explains;
  });
}

/** Names that others dictate: tools, conventions of a language, and people's habits. */
const dictatedNames = new Set(
  "README.md CHANGELOG.md CONTRIBUTING.md LICENSE NOTICE CMakeLists.txt Containerfile Makefile".split(
    " ",
  ),
);

/** File names that are not kebab-case; C++, Python and proto files may use underscores. */
export function findOddNames(files: readonly RepositoryFile[]): string[] {
  const kebab = /^\.?[a-z0-9]+(-[a-z0-9]+)*(\.[a-z0-9]+(-[a-z0-9]+)*)*$/;
  const snake = /^[a-z0-9_]+(-[a-z0-9_]+)*(\.[a-z0-9]+)*$/;
  const snakeExtensions = new Set([".py", ".proto", ".c", ".h", ".cpp", ".hpp", ".cu", ".cuh"]);
  return files
    .map((file) => file.path)
    .filter((path) => !/^(models|wasm\/prebuilt)\//.test(path) && !isGenerated(path))
    .filter((path) => {
      const name = basename(path);
      const rule = snakeExtensions.has(extname(name)) ? snake : kebab;
      return !dictatedNames.has(name) && !rule.test(name);
    });
}

/** Scripts whose executable bit and first line disagree. */
export function findWrongModes(files: readonly RepositoryFile[]): string[] {
  return files
    .filter((file) => file.executable !== file.text.startsWith("#!"))
    .map(
      (file) =>
        `${file.path}: ${file.executable ? "executable without" : "not executable, has"} #!`,
    );
}

/** Markdown files without exactly one heading of the first level. */
export function findWrongHeadings(files: readonly RepositoryFile[]): string[] {
  return files
    .filter((file) => extname(file.path) === ".md")
    .map((file) => ({ path: file.path, count: (prose(file.text).match(/^# /gm) ?? []).length }))
    .filter(({ count }) => count !== 1)
    .map(({ path, count }) => `${path}: ${count} headings of the first level, wanted 1`);
}

/**
 * Exported declarations of src/ without a doc comment. One comment serves a run of exported
 * declarations on adjacent lines, such as a group of limits.
 */
export function findUndocumentedExports(files: readonly RepositoryFile[]): string[] {
  const found: string[] = [];
  for (const { path, text } of files) {
    if (!path.startsWith("src/") || !path.endsWith(".ts") || isGenerated(path)) continue;
    if (/\.test\.ts$|\/testing\//.test(path)) continue;
    const source = ts.createSourceFile(path, text, ts.ScriptTarget.Latest, true);
    let documentedTo = -1;
    for (const statement of source.statements) {
      const { line } = source.getLineAndCharacterOfPosition(statement.getStart());
      const exported =
        ts.canHaveModifiers(statement) &&
        (ts.getModifiers(statement) ?? []).some((m) => m.kind === ts.SyntaxKind.ExportKeyword);
      if (!exported) continue;
      if (ts.getJSDocCommentsAndTags(statement).length > 0 || line === documentedTo + 1) {
        documentedTo = source.getLineAndCharacterOfPosition(statement.getEnd()).line;
        continue;
      }
      const head = statement.getText().split("\n")[0] ?? "";
      found.push(`${path}:${line + 1}: ${head.slice(0, 80)}`);
    }
  }
  return found;
}
