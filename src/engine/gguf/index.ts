/** Model files: headers, checks, sources of bytes. Files on disk: file-source.ts, Node only. */
export { dtypeLayouts } from "./dtype.js";
export type { Dtype, DtypeLayout } from "./dtype.js";
export { ModelFileError } from "./errors.js";
export type { ModelFileErrorCode } from "./errors.js";
export { FingerprintHasher, fingerprintSource } from "./fingerprint.js";
export { fileBlockBytes } from "./limits.js";
export { memorySource } from "./memory-source.js";
export type { Architecture, ModelConfig, RopeOrder, RopeScaling } from "./model-config.js";
export { readModelFile } from "./model-file.js";
export type { ModelFile } from "./model-file.js";
export { checkShardManifest, makeShardManifest, shardSource } from "./shard-source.js";
export type { ModelShard, ShardFetcher, ShardManifest } from "./shard-source.js";
export type { ModelSource } from "./source.js";
export { tensorRoleIds } from "./tensor-roles.js";
export type { TensorRole } from "./tensor-roles.js";
export type { TensorInfo } from "./tensor-table.js";
export { tokenTypes } from "./vocabulary.js";
export type { NamedTokens, Vocabulary } from "./vocabulary.js";
