/** A worker's membership in the pools of gateways. */
export { openRegistrations } from "./open-registration.js";
export type { Registration } from "./registration.js";
