/** Model files of a shape that is measured, with random weights. */
import { writeGguf, type GgufSource, type TensorSource } from "../../test/oracle/gguf.js";
import { randomModel, type ModelSpec } from "../../test/oracle/random-model.js";
import { SeededRandom } from "../../test/oracle/random.js";
import { encodeTensor, tensorTypes, type TensorType } from "../../test/oracle/tensor-types.js";

const common = {
  architecture: "llama",
  seed: 1,
  vocabularyKind: "bpe",
  context: 8_192,
  tied: false,
  ropeBase: 500_000,
} as const;

/** The shape of a name, but for the size of its vocabulary. */
function spec(shape: string, type: TensorType): ModelSpec {
  if (shape === "8b") {
    return {
      ...common,
      type,
      layers: 32,
      dim: 4_096,
      ffDim: 14_336,
      heads: 32,
      kvHeads: 8,
      headDim: 128,
      vocabulary: 16_384,
    };
  }
  if (shape !== "tiny") throw new Error(`--shape is ${shape}, must be 8b or tiny`);
  return {
    ...common,
    type,
    layers: 2,
    dim: 128,
    ffDim: 128,
    heads: 2,
    kvHeads: 1,
    headDim: 64,
    vocabulary: 1_024,
  };
}

/** Metadata and tensors with a vocabulary of that many tokens. Random words do not join to so many: those behind them are plain text. */
function widened({ metadata, tensors }: GgufSource, vocabulary: number): GgufSource {
  const all = new Map(metadata);
  const tokens = all.get("tokenizer.ggml.tokens");
  const types = all.get("tokenizer.ggml.token_type");
  if (tokens?.type !== "strings" || types?.type !== "i32s") throw new Error("no vocabulary");
  const more = vocabulary - tokens.value.length;
  const names = Array.from({ length: more }, (_, i) => `[word${i}]`);
  all.set("tokenizer.ggml.tokens", { type: "strings", value: [...tokens.value, ...names] });
  all.set("tokenizer.ggml.token_type", {
    type: "i32s",
    value: [...types.value, ...names.map(() => 1)],
  });
  all.set("llama.vocab_size", { type: "u32", value: vocabulary });
  const tables = new Set(["token_embd.weight", "output.weight"]);
  return {
    metadata: all,
    tensors: tensors.map((tensor) =>
      tables.has(tensor.name) ? { ...tensor, shape: [tensor.shape[0] ?? 0, vocabulary] } : tensor,
    ),
  };
}

/**
 * Writes a model: real metadata and norms, matrices cut from one run of random values.
 *
 * @param shape `8b`: a Llama 3's, its vocabulary of 128,256 tokens included; `tiny`
 * @param typeName type of the matrices
 * @throws Error for a shape or a type that there is not
 */
export function writeShape(path: string, shape: string, typeName: string): void {
  const type = (Object.keys(tensorTypes) as TensorType[]).find((name) => name === typeName);
  if (type === undefined) throw new Error(`--type is ${typeName}, must be a type of tensors`);
  const vocabulary = shape === "8b" ? 128_256 : 2_048;
  const { metadata, tensors } = widened(randomModel(spec(shape, type)), vocabulary);
  const block = tensorTypes[type];
  const bytesOf = ({ shape }: TensorSource): number =>
    (shape.reduce((product, size) => product * size, 1) / block.values) * block.bytes;
  const matrices = tensors.filter(({ shape }) => shape.length === 2);
  const piece = encodeTensor(type, SeededRandom.named(1, "weights").normals(1 << 21, 0.02));
  // Tensors begin at different places of the run, so that no two layers are alike.
  const stride = 997 * block.bytes;
  const random = Buffer.alloc(Math.max(...matrices.map(bytesOf)) + stride * tensors.length);
  for (let at = 0; at < random.length; at += piece.length) {
    random.set(piece.subarray(0, Math.min(piece.length, random.length - at)), at);
  }
  writeGguf(path, {
    metadata,
    tensors: tensors.map((tensor, index) => {
      if (tensor.shape.length !== 2) return tensor;
      const begin = index * stride;
      return { ...tensor, bytes: () => random.subarray(begin, begin + bytesOf(tensor)) };
    }),
  });
}
