import type { Reporter, SerializedError, TestModule } from "vitest/node";

/**
 * Ends a test run with `N passed, N failed, N skipped`, the line that `.ci/run` sums over all
 * suites. A module that does not load and an error outside any test count as one failure each, so
 * that the line never hides one.
 */
export class SummaryReporter implements Reporter {
  /** Called by vitest once, after the last test. */
  onTestRunEnd(modules: readonly TestModule[], errors: readonly SerializedError[]): void {
    let passed = 0;
    let failed = errors.length;
    let skipped = 0;
    for (const module of modules) {
      failed += module.errors().length;
      for (const test of module.children.allTests()) {
        const { state } = test.result();
        if (state === "passed") passed += 1;
        else if (state === "skipped") skipped += 1;
        else failed += 1;
      }
      for (const suite of module.children.allSuites()) failed += suite.errors().length;
    }
    const line = `${passed} passed, ${failed} failed, ${skipped} skipped\n`;
    // The default reporter prints its own end after this hook; the process's exit comes last.
    process.once("exit", () => process.stdout.write(line));
  }
}

export default SummaryReporter;
