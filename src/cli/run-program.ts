/** How programs of the command line fail: with one line that says why, and status 1. */

/** Runs a program's work to its end. */
export async function runProgram(work: () => Promise<unknown>): Promise<void> {
  try {
    await work();
  } catch (error) {
    console.error(`leanedge: ${error instanceof Error ? error.message : String(error)}`);
    process.exitCode = 1;
  }
}
