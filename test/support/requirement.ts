/**
 * Things that a test needs and a user's machine may lack: a browser, a compiler, a folder. The test
 * is skipped by name with the reason; where LEANEDGE_CI=1 is set it runs and fails instead.
 */
import { existsSync } from "node:fs";
import { resolve } from "node:path";

/** One thing that tests may need. */
export interface Requirement {
  /** Skip tests that need it? */
  readonly missing: boolean;
  /** For the test's title: what is missing, or nothing. */
  readonly note: string;
}

/** A requirement that a file or folder exists; `path` is absolute or in the repository. */
export function requirePath(path: string, what: string): Requirement {
  const absent = !existsSync(resolve(import.meta.dirname, "../..", path));
  return {
    missing: absent && process.env["LEANEDGE_CI"] !== "1",
    note: absent ? ` (needs ${what})` : "",
  };
}

/** Debian's Chromium; `LEANEDGE_CHROMIUM` names another browser. */
export const chromiumPath = process.env["LEANEDGE_CHROMIUM"] ?? "/usr/bin/chromium";
/** Requirement of a browser. */
export const needsChromium = requirePath(chromiumPath, `Chromium at ${chromiumPath}`);
/** Python clients, installed by `npm run clients:python`. */
export const pythonPath = ".cache/python-clients/bin/python";
/** Requirement of the Python clients. */
export const needsPythonClients = requirePath(pythonPath, "npm run clients:python");
/** A compiler of C++20; `CXX` names another one. */
export const needsCompiler = requirePath(
  process.env["CXX"] ?? "/usr/bin/g++",
  "a C++20 compiler at /usr/bin/g++; CXX names another by its path",
);
