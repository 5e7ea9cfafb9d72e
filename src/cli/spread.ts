/** `leanedge spread`: moves what a gateway stored to another number of processes, and of objects (spread-objects.ts). */
import { spawn } from "node:child_process";
import { once } from "node:events";
import { packagePath } from "./repository.js";
import { nodeBinary } from "./workers-process.js";

/** Moves it in a Node that brings SQLite. */
export async function spread(
  storage: string,
  processes: number,
  sessionObjects: number | undefined,
): Promise<void> {
  const child = spawn(
    nodeBinary(),
    [
      ...["--disable-warning=ExperimentalWarning", "--import", "tsx"],
      ...[packagePath("src/cli/spread-process.ts"), storage, String(processes)],
      ...(sessionObjects === undefined ? [] : [String(sessionObjects)]),
    ],
    { stdio: ["ignore", "inherit", "inherit"] },
  );
  const [code] = (await once(child, "exit")) as [number | null];
  process.exitCode = code ?? 1;
}
