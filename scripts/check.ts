/**
 * `npm run check`: everything that can be judged without running the product. Runs every step even
 * if one fails, so that one run shows all there is to mend; exits 1 if any failed. Named steps run
 * alone: `npm run check -- lint types`.
 */
import { spawnSync } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

/** A check: its name and what it runs, in order; the first that fails ends it. */
interface Step {
  readonly name: string;
  readonly run: () => boolean;
}

/** Runs a program with this process's output; true if it exited with 0. */
function succeeds(program: string, ...args: string[]): boolean {
  return spawnSync(program, args, { stdio: ["ignore", "inherit", "inherit"] }).status === 0;
}

/** What a program prints, or undefined if it failed. */
function output(program: string, ...args: string[]): string | undefined {
  const child = spawnSync(program, args, { encoding: "utf8" });
  return child.status === 0 ? child.stdout.trim() : undefined;
}

/** Generates into an empty folder and compares: src/gen must be what proto/ says. */
function generatedCodeIsCurrent(): boolean {
  const folder = mkdtempSync(join(tmpdir(), "leanedge-gen-"));
  try {
    if (!succeeds("buf", "generate", "--output", folder)) return false;
    const same = succeeds(
      "git",
      "diff",
      "--no-index",
      "--stat",
      "src/gen",
      join(folder, "src/gen"),
    );
    if (!same) console.error("src/gen differs from what proto/ generates: npm run codegen");
    return same;
  } finally {
    rmSync(folder, { recursive: true });
  }
}

/**
 * Compares the API with the main branch that this clone came from, or with the commit that
 * LEANEDGE_API_BASE names. Without either there is nothing to be compatible with.
 */
function apiIsCompatible(): boolean {
  const named = process.env["LEANEDGE_API_BASE"];
  const base = named ?? output("git", "merge-base", "HEAD", "origin/main");
  if (base === undefined || output("git", "rev-parse", "--verify", `${base}:proto`) === undefined) {
    console.log(`no API to compare with at ${base ?? "origin/main"}`);
    return named === undefined;
  }
  const folder = mkdtempSync(join(tmpdir(), "leanedge-api-"));
  try {
    const archive = join(folder, "api.tar");
    return (
      succeeds("git", "archive", "--output", archive, base, "proto", "buf.yaml") &&
      succeeds("buf", "breaking", "--against", archive)
    );
  } finally {
    rmSync(folder, { recursive: true });
  }
}

const steps: readonly Step[] = [
  {
    name: "format",
    run: () =>
      succeeds("prettier", "--check", "--log-level", "warn", ".") &&
      succeeds("buf", "format", "--diff", "--exit-code"),
  },
  { name: "lint", run: () => succeeds("eslint", "--max-warnings", "0", ".") },
  {
    name: "types",
    run: () =>
      ["tsconfig.json", "tsconfig.workers.json", "tsconfig.workers-test.json"].filter(
        (project) => !succeeds("tsc", "-p", project),
      ).length === 0,
  },
  { name: "proto", run: () => succeeds("buf", "lint") },
  { name: "api", run: apiIsCompatible },
  { name: "codegen", run: generatedCodeIsCurrent },
  { name: "tidy", run: () => succeeds("vitest", "run", "--project", "node", "test/tidy.test.ts") },
];

const wanted = process.argv.slice(2);
const unknown = wanted.filter((name) => !steps.some((step) => step.name === name));
if (unknown.length > 0) {
  console.error(`no step ${unknown.join(", ")}; there are ${steps.map((s) => s.name).join(", ")}`);
  process.exit(2);
}

const failed: string[] = [];
for (const { name, run } of steps) {
  if (wanted.length > 0 && !wanted.includes(name)) continue;
  const start = performance.now();
  const passed = run();
  const seconds = ((performance.now() - start) / 1000).toFixed(1);
  console.log(`${passed ? "ok    " : "FAILED"} ${name} (${seconds} s)`);
  if (!passed) failed.push(name);
}
if (failed.length > 0) {
  console.error(`check failed: ${failed.join(", ")}`);
  process.exit(1);
}
