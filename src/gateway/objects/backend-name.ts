/** Names of backends as plain HTTP shows them. */
import { Backend } from "../../gen/leanedge/v1/session_pb.js";

const names: ReadonlyMap<Backend, string> = new Map([
  [Backend.REFERENCE, "reference"],
  [Backend.WASM, "wasm"],
  [Backend.CUDA, "cuda"],
]);

/** The name of a backend: `reference`, `wasm`, `cuda`, or `unknown`, which one is too that only later workers have. */
export function backendName(backend: Backend): string {
  return names.get(backend) ?? "unknown";
}
