/** The tensor table of a model, checked against its hyper-parameters and the file's size. */
import type { GGUFTensorInfo } from "@huggingface/gguf";
import { dtypeLayouts, dtypeName, dtypeOf } from "./dtype.js";
import type { Dtype } from "./dtype.js";
import { ModelFileError, quote } from "./errors.js";
import type { BaseConfig, ModelConfig } from "./model-config.js";
import type { ParsedHeader } from "./parse-header.js";
import { nameOfRole, roleOfName, shapeOfRole } from "./tensor-roles.js";
import type { TensorRole } from "./tensor-roles.js";

/** One tensor of a model file. */
export interface TensorInfo {
  readonly name: string;
  readonly role: TensorRole;
  /** Layer, from 0; -1 outside layers. */
  readonly layer: number;
  readonly dtype: Dtype;
  /** Rows of a matrix; 1 for vectors. */
  readonly rows: number;
  /** Contiguous columns of a row. */
  readonly cols: number;
  /** First byte, from the start of the file. */
  readonly offset: number;
  readonly byteLength: number;
}

const biases: readonly TensorRole[] = ["attnQBias", "attnKBias", "attnVBias"];
const headNorms: readonly TensorRole[] = ["attnQNorm", "attnKNorm"];
const layerRoles: readonly TensorRole[] = [
  "attnNorm",
  "attnQ",
  "attnK",
  "attnV",
  "attnOutput",
  "ffnNorm",
  "ffnGate",
  "ffnUp",
  "ffnDown",
];

function checkTensor(info: GGUFTensorInfo, config: BaseConfig, dataOffset: number): TensorInfo {
  const thing = `tensor ${quote(info.name)}`;
  const place = roleOfName(info.name);
  if (place === undefined) {
    throw new ModelFileError("tensor", `${thing} is not known in ${config.architecture} models`);
  }
  const { role, layer } = place;
  if (layer >= config.layers) {
    throw new ModelFileError("tensor", `${thing} is beyond the model's ${config.layers} layers`);
  }
  const dtype = dtypeOf(info.dtype);
  if (dtype === undefined) {
    throw new ModelFileError(
      "tensor",
      `${thing} is stored as ${dtypeName(info.dtype)}, only ${Object.keys(dtypeLayouts).join(", ")} are read`,
    );
  }
  const shape = info.shape.map(Number);
  const expected = shapeOfRole(role, config);
  if (shape.length !== expected.length || shape.some((size, i) => size !== expected[i])) {
    throw new ModelFileError(
      "tensor",
      `${thing} has shape [${shape.join(", ")}], [${expected.join(", ")}] expected`,
    );
  }
  const [cols = 0, rows = 1] = expected;
  const { blockWeights, blockBytes } = dtypeLayouts[dtype];
  if (expected.length === 1 && blockWeights > 1) {
    throw new ModelFileError(
      "tensor",
      `${thing} is a vector stored as ${dtype}, only F32, F16 and BF16 are read`,
    );
  }
  if (cols % blockWeights !== 0) {
    throw new ModelFileError(
      "tensor",
      `${thing} has rows of ${cols}, not a multiple of ${blockWeights} (${dtype})`,
    );
  }
  return {
    name: info.name,
    role,
    layer,
    dtype,
    rows,
    cols,
    offset: dataOffset + Number(info.offset),
    byteLength: (cols / blockWeights) * blockBytes * rows,
  };
}

function checkOffsets(tensors: readonly TensorInfo[], alignment: number, sizeBytes: number): void {
  let last: TensorInfo | undefined;
  for (const tensor of [...tensors].sort((a, b) => a.offset - b.offset)) {
    const thing = `tensor ${quote(tensor.name)}`;
    if (tensor.offset % alignment !== 0) {
      throw new ModelFileError(
        "offset",
        `${thing} begins at byte ${tensor.offset}, not a multiple of ${alignment}`,
      );
    }
    const end = tensor.offset + tensor.byteLength;
    if (end > sizeBytes) {
      throw new ModelFileError("offset", `${thing} ends at byte ${end}, the file has ${sizeBytes}`);
    }
    if (last !== undefined && tensor.offset < last.offset + last.byteLength) {
      throw new ModelFileError(
        "offset",
        `${thing} overlaps ${quote(last.name)} at byte ${tensor.offset}`,
      );
    }
    last = tensor;
  }
}

/** Checks the table. The tensors come back in file order, so that one pass over the file loads them. */
export function checkTensors(
  header: ParsedHeader,
  base: BaseConfig,
  sizeBytes: number,
): { tensors: readonly TensorInfo[]; config: ModelConfig } {
  const tensors = header.tensors.map((info) => checkTensor(info, base, header.dataOffset));
  const roles = new Set(tensors.map((tensor) => tensor.role));
  const names = new Set(tensors.map((tensor) => tensor.name));
  const config: ModelConfig = {
    ...base,
    tiedEmbeddings: !roles.has("output"),
    // Optional in llama files, part of the architecture in Qwen's.
    qkvBias: base.architecture === "qwen2" || biases.some((role) => roles.has(role)),
    qkNorm: base.architecture === "qwen3",
    ropeFactors: roles.has("ropeFactors"),
  };
  if (!config.qkNorm && headNorms.some((role) => roles.has(role))) {
    throw new ModelFileError(
      "tensor",
      `norms of Q and K are not known in ${base.architecture} models`,
    );
  }
  const perLayer = [
    ...layerRoles,
    ...(config.qkvBias ? biases : []),
    ...(config.qkNorm ? headNorms : []),
  ];
  const needed = [nameOfRole("tokenEmbedding", -1), nameOfRole("outputNorm", -1)];
  for (let layer = 0; layer < base.layers; layer++) {
    needed.push(...perLayer.map((role) => nameOfRole(role, layer)));
  }
  const missing = needed.filter((name) => !names.has(name));
  if (missing.length > 0) {
    throw new ModelFileError(
      "tensor",
      `tensor ${quote(missing[0] ?? "")} is missing, ${missing.length} in all`,
    );
  }
  checkOffsets(tensors, header.alignment, sizeBytes);
  return { tensors: tensors.sort((a, b) => a.offset - b.offset), config };
}
