import { describe, expect, it } from "vitest";
import { embeddedFile } from "../../embedded-model.js";
import { openFileSource } from "./file-source.js";
import { fileBytesMax } from "./limits.js";
import { memorySource } from "./memory-source.js";
import { readModelFile } from "./model-file.js";
import type { ModelFile } from "./model-file.js";
import { buildGguf, setMetadata, setTensor, tinyModel } from "./testing/build-gguf.js";
import type { TestFile, TestValue } from "./testing/build-gguf.js";

const read = (file: TestFile): Promise<ModelFile> => readModelFile(memorySource(buildGguf(file)));
const u32 = (value: number): TestValue => ({ type: "u32", value });
const f32 = (value: number): TestValue => ({ type: "f32", value });
const text = (value: string): TestValue => ({ type: "string", value });

/** What a refusal must say. */
function refusal(code: string, message: RegExp): unknown {
  return expect.objectContaining({
    name: "ModelFileError",
    code,
    message: expect.stringMatching(message) as string,
  });
}

describe("a good model file", () => {
  it("gives its configuration, tensors in file order and vocabulary", async () => {
    const file = await read(tinyModel());
    expect(file.name).toBe("tiny");
    expect(file.config).toEqual({
      architecture: "llama",
      layers: 1,
      dim: 32,
      ffDim: 64,
      heads: 2,
      kvHeads: 1,
      headDim: 16,
      vocabSize: 8,
      contextTokensMax: 128,
      rmsEps: Math.fround(1e-5),
      ropeBase: 10_000,
      ropeDim: 16,
      ropeOrder: "interleaved",
      ropeScaling: "none",
      ropeScale: 1,
      yarnOriginalContext: 128,
      yarnBetaFast: 32,
      yarnBetaSlow: 1,
      yarnAttentionFactor: 1,
      tiedEmbeddings: true,
      qkvBias: false,
      qkNorm: false,
      ropeFactors: false,
    });
    expect(file.tensors[0]).toEqual({
      name: "token_embd.weight",
      role: "tokenEmbedding",
      layer: -1,
      dtype: "Q8_0",
      rows: 8,
      cols: 32,
      offset: file.dataOffset,
      byteLength: 8 * 34,
    });
    const k = file.tensors.find((tensor) => tensor.role === "attnK");
    expect(k).toMatchObject({ layer: 0, dtype: "Q4_1", rows: 16, cols: 32, byteLength: 16 * 20 });
    expect(file.vocabulary.named).toEqual({ unknown: 0, bos: 1, eos: 2 });
  });

  it("keeps a token that begins with U+FEFF", async () => {
    const { vocabulary } = await read(tinyModel());
    expect(vocabulary.tokens[6]).toBe("\uFEFF");
  });

  it.each(["qwen2", "qwen3"] as const)("knows what %s adds", async (architecture) => {
    const { config } = await read(tinyModel(architecture));
    expect(config).toMatchObject({
      architecture,
      ropeOrder: "half",
      qkvBias: architecture === "qwen2",
      qkNorm: architecture === "qwen3",
    });
  });

  it("takes an output matrix and RoPE factors where the file has them", async () => {
    const file = tinyModel();
    file.tensors.push({ name: "output.weight", shape: [32, 8], dtype: "F32" });
    file.tensors.push({ name: "rope_freqs.weight", shape: [8], dtype: "F32" });
    expect((await read(file)).config).toMatchObject({ tiedEmbeddings: false, ropeFactors: true });
  });

  it("reads linear and YaRN scaling as llama.cpp does", async () => {
    let file = setMetadata(tinyModel("qwen2"), "qwen2.rope.scaling.factor", f32(4));
    expect((await read(file)).config).toMatchObject({
      ropeScaling: "linear",
      ropeScale: 4,
      yarnAttentionFactor: 1,
    });
    file = setMetadata(file, "qwen2.rope.scaling.type", text("yarn"));
    file = setMetadata(file, "qwen2.rope.scaling.original_context_length", u32(64));
    const yarn = (await read(file)).config;
    expect(yarn).toMatchObject({ ropeScaling: "yarn", ropeScale: 4, yarnOriginalContext: 64 });
    expect(yarn.yarnAttentionFactor).toBeCloseTo(0.1 * Math.log(4) + 1, 12);
    file = setMetadata(file, "qwen2.rope.scaling.attn_factor", f32(0.5));
    expect((await read(file)).config.yarnAttentionFactor).toBeCloseTo(
      0.5 * (0.1 * Math.log(4) + 1),
      12,
    );
    file = setMetadata(file, "qwen2.rope.scaling.yarn_log_multiplier", f32(1));
    expect((await read(file)).config.yarnAttentionFactor).toBeCloseTo(0.5, 12);
    file = setMetadata(file, "qwen2.rope.scaling.type", text("none"));
    expect((await read(file)).config).toMatchObject({ ropeScaling: "none", ropeScale: 1 });
  });

  it("takes hyper-parameters that are written once per layer and agree", async () => {
    const key = "llama.attention.head_count_kv";
    const perLayer = (value: number[]) => setMetadata(tinyModel(), key, { type: "i32s", value });
    expect((await read(perLayer([1]))).config.kvHeads).toBe(1);
    await expect(read(perLayer([1, 2]))).rejects.toEqual(
      refusal("architecture", /head_count_kv" differs between layers/),
    );
  });
});

describe("a bad model file is refused", () => {
  const llama = tinyModel();
  const withKey = (key: string, value: TestValue | undefined) => setMetadata(llama, key, value);
  const without = (name: string) => ({
    ...llama,
    tensors: llama.tensors.filter((tensor) => tensor.name !== name),
  });
  const cases: [what: string, file: TestFile, code: string, message: RegExp][] = [
    ["a wrong magic", { ...llama, magic: "GGML" }, "magic", /begins with 0x4c4d4747/],
    ["version 1", { ...llama, version: 1 }, "version", /GGUF version 1, only 2 and 3/],
    ["big endian", { ...llama, version: 0x03000000 }, "version", /big-endian/],
    [
      "too many tensors",
      { ...llama, tensorCount: 2 ** 50 },
      "limit",
      /number of tensors is 11\d+, at most 4096/,
    ],
    ["too many keys", { ...llama, keyCount: 5000 }, "limit", /metadata keys is 5000, at most 4096/],
    [
      "too few keys",
      { ...llama, keyCount: 3 },
      "limit",
      /dimension 0 of tensor "llama.embedding_length"/,
    ],
    [
      "a file that is cut off",
      { ...llama, cut: 1 },
      "offset",
      /ffn_down.weight" ends at byte (\d+), the file has/,
    ],
    [
      "a key twice",
      { ...llama, metadata: [...llama.metadata, ["general.name", text("x")]] },
      "metadata",
      /"general.name" stands there twice/,
    ],
    [
      "a key named __proto__",
      withKey("__proto__", text("x")),
      "metadata",
      /17 of 18 metadata keys/,
    ],
    [
      "a tensor twice",
      {
        ...llama,
        tensors: [...llama.tensors, { name: "output_norm.weight", shape: [32], dtype: "F32" }],
      },
      "tensor",
      /output_norm.weight" stands there twice/,
    ],
    [
      "another architecture",
      withKey("general.architecture", text("mamba")),
      "architecture",
      /"mamba" is not supported, only llama, qwen2, qwen3/,
    ],
    [
      "no architecture",
      withKey("general.architecture", undefined),
      "metadata",
      /"general.architecture" is missing/,
    ],
    ["experts", withKey("llama.expert_count", u32(8)), "architecture", /mixtures of experts/],
    [
      "no layers",
      withKey("llama.block_count", u32(0)),
      "metadata",
      /block_count" is 0, outside 1 to 256/,
    ],
    [
      "too many layers",
      withKey("llama.block_count", u32(257)),
      "metadata",
      /is 257, outside 1 to 256/,
    ],
    [
      "a missing layer",
      withKey("llama.block_count", u32(2)),
      "tensor",
      /"blk.1.attn_norm.weight" is missing, 9 in all/,
    ],
    [
      "a layer too many",
      {
        ...llama,
        tensors: [...llama.tensors, { name: "blk.1.attn_norm.weight", shape: [32], dtype: "F32" }],
      },
      "tensor",
      /beyond the model's 1 layers/,
    ],
    [
      "an epsilon of zero",
      withKey("llama.attention.layer_norm_rms_epsilon", f32(0)),
      "metadata",
      /epsilon" is 0, outside/,
    ],
    [
      "an epsilon of NaN",
      withKey("llama.attention.layer_norm_rms_epsilon", f32(NaN)),
      "metadata",
      /epsilon" is NaN, outside/,
    ],
    [
      "an infinite RoPE base",
      withKey("llama.rope.freq_base", f32(Infinity)),
      "metadata",
      /freq_base" is Infinity/,
    ],
    [
      "text for a number",
      withKey("llama.embedding_length", text("32")),
      "metadata",
      /is of type STRING, an integer expected/,
    ],
    [
      "a fraction for a count",
      withKey("llama.embedding_length", f32(32)),
      "metadata",
      /is of type FLOAT32, an integer expected/,
    ],
    [
      "heads that do not divide",
      withKey("llama.attention.head_count_kv", u32(3)),
      "metadata",
      /2 query heads are not a multiple of 3/,
    ],
    [
      "an odd head dimension",
      withKey("llama.attention.key_length", u32(15)),
      "metadata",
      /head dimension is 15/,
    ],
    [
      "V of another size",
      withKey("llama.attention.value_length", u32(8)),
      "architecture",
      /16 K and 8 V channels/,
    ],
    [
      "RoPE beyond the head",
      withKey("llama.rope.dimension_count", u32(32)),
      "metadata",
      /RoPE dimension is 32, an even number up to 16/,
    ],
    [
      "LongRoPE",
      withKey("llama.rope.scaling.type", text("longrope")),
      "architecture",
      /RoPE scaling "longrope"/,
    ],
    [
      "a scaling factor below 1",
      withKey("llama.rope.scaling.factor", f32(0.5)),
      "metadata",
      /factor is 0.5, at least 1/,
    ],
    [
      "an unknown tensor",
      {
        ...llama,
        tensors: [...llama.tensors, { name: "blk.0.ffn_gate.bias", shape: [64], dtype: "F32" }],
      },
      "tensor",
      /ffn_gate.bias" is not known in llama models/,
    ],
    [
      "a tensor missing",
      without("output_norm.weight"),
      "tensor",
      /"output_norm.weight" is missing, 1 in all/,
    ],
    [
      "a bias without its brothers",
      {
        ...llama,
        tensors: [...llama.tensors, { name: "blk.0.attn_q.bias", shape: [32], dtype: "F32" }],
      },
      "tensor",
      /"blk.0.attn_k.bias" is missing/,
    ],
    [
      "qwen norms in llama",
      {
        ...llama,
        tensors: [
          ...llama.tensors,
          { name: "blk.0.attn_q_norm.weight", shape: [16], dtype: "F32" },
        ],
      },
      "tensor",
      /norms of Q and K are not known in llama/,
    ],
    [
      "an unread type",
      setTensor(llama, "blk.0.attn_q.weight", { dtype: 14 }),
      "tensor",
      /attn_q.weight" is stored as Q6_K, only F32, F16, Q4_0, Q4_1, Q8_0, BF16/,
    ],
    [
      "a type that does not exist",
      setTensor(llama, "blk.0.attn_q.weight", { dtype: 9999 }),
      "tensor",
      /stored as number 9999/,
    ],
    [
      "a quantised vector",
      setTensor(llama, "output_norm.weight", { dtype: "Q8_0" }),
      "tensor",
      /output_norm.weight" is a vector stored as Q8_0/,
    ],
    [
      "a wrong shape",
      setTensor(llama, "blk.0.attn_q.weight", { shape: [32, 31] }),
      "tensor",
      /has shape \[32, 31\], \[32, 32\] expected/,
    ],
    [
      "a dimension too many",
      setTensor(llama, "blk.0.attn_q.weight", { shape: [32, 32, 1] }),
      "tensor",
      /has shape \[32, 32, 1\]/,
    ],
    [
      "nine dimensions",
      setTensor(llama, "blk.0.attn_q.weight", { shape: [1, 1, 1, 1, 1, 1, 1, 1, 1] }),
      "tensor",
      /has 9 dimensions, 1 to 4/,
    ],
    [
      "a huge dimension",
      setTensor(llama, "blk.0.attn_q.weight", { shape: [2 ** 40, 32] }),
      "limit",
      /dimension 0 of tensor "blk.0.attn_q.weight" is 1099511627776/,
    ],
    [
      "overlapping tensors",
      setTensor(llama, "blk.0.attn_q.weight", { offset: 32 }),
      "offset",
      /attn_q.weight" overlaps "token_embd.weight"/,
    ],
    [
      "a misaligned tensor",
      setTensor(llama, "blk.0.attn_q.weight", { offset: 2 ** 20 + 1 }),
      "offset",
      /not a multiple of 32/,
    ],
    [
      "a tensor outside the file",
      setTensor(llama, "blk.0.attn_q.weight", { offset: 2 ** 30 }),
      "offset",
      /ends at byte \d+, the file has \d+/,
    ],
    [
      "an offset beyond any file",
      setTensor(llama, "blk.0.attn_q.weight", { offset: Number.MAX_SAFE_INTEGER }),
      "limit",
      /offset of tensor "blk.0.attn_q.weight"/,
    ],
    [
      "an alignment that is no power of two",
      withKey("general.alignment", u32(48)),
      "metadata",
      /alignment" is 48, not a power of two/,
    ],
    [
      "an alignment of zero",
      withKey("general.alignment", u32(0)),
      "metadata",
      /general.alignment must be a positive integer, got 0/,
    ],
    [
      "a vocabulary of another size",
      withKey("llama.vocab_size", u32(9)),
      "metadata",
      /vocab_size is 9, the token table has 8/,
    ],
    [
      "no vocabulary",
      withKey("tokenizer.ggml.tokens", undefined),
      "metadata",
      /tokenizer.ggml.tokens" is missing/,
    ],
    [
      "tokens of a wrong type",
      withKey("tokenizer.ggml.tokens", { type: "i32s", value: [1] }),
      "metadata",
      /an array of STRING expected/,
    ],
    [
      "a token twice",
      withKey("tokenizer.ggml.tokens", { type: "strings", value: ["a", "b", "a"] }),
      "vocabulary",
      /tokens 0 and 2 are both "a"/,
    ],
    [
      "scores that are missing",
      withKey("tokenizer.ggml.scores", undefined),
      "vocabulary",
      /one finite score for each token/,
    ],
    [
      "a score of NaN",
      withKey("tokenizer.ggml.scores", { type: "f32s", value: [0, 0, 0, 0, 0, 0, 0, NaN] }),
      "vocabulary",
      /one finite score/,
    ],
    [
      "too few scores",
      withKey("tokenizer.ggml.scores", { type: "f32s", value: [0] }),
      "vocabulary",
      /scores has 1 elements, the token table 8/,
    ],
    [
      "an unknown token type",
      withKey("tokenizer.ggml.token_type", { type: "i32s", value: [2, 3, 3, 1, 1, 1, 1, 7] }),
      "vocabulary",
      /token type 7 is outside 0 to 6/,
    ],
    [
      "a byte token without a byte",
      withKey("tokenizer.ggml.token_type", { type: "i32s", value: [2, 3, 3, 1, 1, 6, 1, 1] }),
      "vocabulary",
      /byte token "b" is not named like <0x0A>/,
    ],
    [
      "another tokenizer",
      withKey("tokenizer.ggml.model", text("t5")),
      "vocabulary",
      /"t5" is not supported/,
    ],
    [
      "BPE without merges",
      withKey("tokenizer.ggml.model", text("gpt2")),
      "vocabulary",
      /needs tokenizer.ggml.merges/,
    ],
  ];

  it.each(cases)("%s", async (_what, file, code, message) => {
    await expect(read(file)).rejects.toEqual(refusal(code, message));
  });

  it("an array with a huge length, without reserving memory for it", async () => {
    const bytes = buildGguf(withKey("general.tags", { type: "strings", value: [] }));
    const name = new TextEncoder().encode("general.tags");
    const at = bytes.findIndex((_, i) => name.every((byte, j) => bytes[i + j] === byte));
    new DataView(bytes.buffer).setBigUint64(at + name.length + 8, 2n ** 63n, true);
    await expect(readModelFile(memorySource(bytes))).rejects.toEqual(
      refusal("limit", /length of metadata "general.tags" is 9\d+, at most 1048576/),
    );
  });

  it("a header without end, after its bound", async () => {
    const textBytes = 1 << 20;
    const entryBytes = 8 + 1 + 4 + 8 + textBytes;
    const bytes = new Uint8Array(24 + 20 * entryBytes);
    bytes.set(buildGguf({ ...llama, keyCount: 4000 }).subarray(0, 24));
    const view = new DataView(bytes.buffer);
    for (let i = 0, at = 24; i < 20; i++, at += entryBytes) {
      view.setUint32(at, 1, true); // length of the key
      bytes[at + 8] = 65 + i;
      view.setUint32(at + 9, 8, true); // a string
      view.setUint32(at + 13, textBytes, true);
    }
    await expect(readModelFile(memorySource(bytes))).rejects.toEqual(
      refusal("limit", /longer than 16000000 bytes/),
    );
  });

  it("a file of an absurd size", async () => {
    const source = { ...memorySource(buildGguf(llama)), sizeBytes: fileBytesMax + 1 };
    await expect(readModelFile(source)).rejects.toEqual(refusal("limit", /the file has/));
  });
});

describe("the embedded model", () => {
  it("is read from disk", async () => {
    const source = await openFileSource(embeddedFile);
    try {
      const file = await readModelFile(source);
      expect(file.config).toMatchObject({
        layers: 8,
        dim: 512,
        heads: 8,
        kvHeads: 4,
        vocabSize: 8192,
      });
      expect(file.tensors).toHaveLength(74);
      expect(file.vocabulary).toMatchObject({ model: "gpt2" });
      expect(file.chatTemplate).toContain("<|assistant|>");
    } finally {
      await source.close();
    }
  });
});
