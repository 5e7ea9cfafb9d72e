export { defaultFrontLimits } from "./front-limits.js";
export type { FrontLimits } from "./front-limits.js";
export { startGrpcFront } from "./grpc-front.js";
export type { GrpcFront, GrpcFrontOptions } from "./grpc-front.js";
