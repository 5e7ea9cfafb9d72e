/** Every bound of a model file, in one place. Values of the engine's contract stand in model.h. */

/** Bytes of metadata and tensor table. Vocabularies of 152 K tokens take 6 MB, of 128 K with 280 K merges 8 MB. */
export const HEADER_BYTES_MAX = 16_000_000;

/** First read of a header; the next reads double it. Small models need one read. */
export const HEADER_READ_BYTES = 512 * 1024;

/** Metadata keys. Real files have 20 to 60. */
export const METADATA_KEYS_MAX = 4_096;

/** Bytes of a metadata key or tensor name; ggml itself stops at 64 for names. */
export const NAME_BYTES_MAX = 256;

/** Bytes of one metadata string. Chat templates are the longest: up to about 20 KB. */
export const STRING_BYTES_MAX = 1 << 20;

/** Elements of one metadata array: a vocabulary of kVocabMax tokens. */
export const ARRAY_ELEMENTS_MAX = 1 << 20;

/** Elements of all metadata arrays together: each becomes a JavaScript value of about 8 bytes. */
export const ARRAY_ELEMENTS_TOTAL_MAX = 4 << 20;

/** Tensors: kLayersMax layers of 14, and a few around them. */
export const TENSORS_MAX = 4_096;

/** ggml's own bound on tensor dimensions. */
export const TENSOR_DIMENSIONS_MAX = 4;

/** Bytes that tensor data may be aligned to. */
export const ALIGNMENT_MAX = 1 << 16;

/** Sizes of a model: the same as in engine/include/leanedge/model.h. */
export const LAYERS_MAX = 256;
export const HEAD_DIM_MAX = 256;
export const HEADS_MAX = 1_024;
export const DIM_MAX = 65_536;
export const FF_DIM_MAX = 1 << 18;
export const VOCAB_MAX = 1 << 20;
export const CONTEXT_TOKENS_MAX = 1 << 20;

/** A model file as a whole: positions in it stay exact in a double with room to spare. */
export const FILE_BYTES_MAX = 2 ** 40;

/** The unit that fingerprints hash and asset shards hold; also the most that a stream buffers. */
export const BLOCK_BYTES = 4 * 1024 * 1024;

/** Blocks of a sharded file: 16 GiB, far beyond what an edge isolate can hold. */
export const SHARDS_MAX = 4_096;

/** Bytes that a stream of a file or of memory hands out at a time. */
export const STREAM_CHUNK_BYTES = 256 * 1024;
