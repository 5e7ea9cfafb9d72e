/** Names of backends as plain HTTP shows them. */
import { Backend } from "../../gen/leanedge/v1/session_pb.js";

const names: Readonly<Record<Backend, string>> = {
  [Backend.UNSPECIFIED]: "unknown",
  [Backend.REFERENCE]: "reference",
  [Backend.WASM]: "wasm",
  [Backend.CUDA]: "cuda",
};

/** The name of a backend: `reference`, `wasm`, `cuda`, or `unknown`. */
export function backendName(backend: Backend): string {
  return names[backend];
}
