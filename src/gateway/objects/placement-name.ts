/** Names of placement reasons in headers and metrics. */
import { PlacementReason } from "../../gen/leanedge/v1/session_pb.js";

/** `bound`, `only`, `load`, `hash`, `moved`, `failover`, `last-resort`, `configured` or `fallback`. */
export function placementName(reason: PlacementReason): string {
  return PlacementReason[reason].toLowerCase().replace("_", "-");
}
