/** What results of a program in Node say of their run, as measure.py does for those in Python. */
import { execFileSync } from "node:child_process";

/** Head of a result file. */
export interface RunHead {
  /** Name of the GPU; `no GPU` where there is none. */
  readonly device: string;
  readonly driver: string;
  /** Version of Node. */
  readonly node: string;
  readonly date: string;
  readonly commit: string;
  readonly command: string;
  /** Hash of the kernels that were measured (kernels-hash.sh). */
  readonly kernels: string;
}

/** The head of a run that began with `command`; LEANEDGE_COMMIT and LEANEDGE_KERNELS say what was measured. */
export function runHead(command: string): RunHead {
  const [device = "", driver = ""] = gpu();
  const variants = (process.env["LEANEDGE_CUDA_VARIANTS"] ?? "").trim();
  return {
    device,
    driver,
    node: process.version,
    date: `${new Date().toISOString().slice(0, 16).replace("T", " ")} UTC`,
    commit: process.env["LEANEDGE_COMMIT"] ?? "unknown",
    command: variants === "" ? command : `${command} with ${variants}`,
    kernels: process.env["LEANEDGE_KERNELS"] ?? "unknown",
  };
}

/** The name and driver of the GPU. */
function gpu(): readonly string[] {
  try {
    const query = ["--query-gpu=name,driver_version", "--format=csv,noheader"];
    return execFileSync("nvidia-smi", query, { encoding: "utf8" }).trim().split(/, |\n/);
  } catch {
    return ["no GPU", "none"];
  }
}
