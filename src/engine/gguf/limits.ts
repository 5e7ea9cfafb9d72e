/** Every bound of a model file, in one place. Values of the engine's contract stand in model.h. */

/** Bytes of metadata and tensor table. Vocabularies of 152 K tokens take 6 MB, of 128 K with 280 K merges 8 MB. */
export const headerBytesMax = 16_000_000;

/** First read of a header; the next reads double it. Small models need one read. */
export const headerReadBytes = 512 * 1024;

/** Metadata keys. Real files have 20 to 60. */
export const metadataKeysMax = 4_096;

/** Bytes of a metadata key or tensor name; ggml itself stops at 64 for names. */
export const nameBytesMax = 256;

/** Bytes of one metadata string. Chat templates are the longest: up to about 20 KB. */
export const stringBytesMax = 1 << 20;

/** Elements of one metadata array: a vocabulary of kVocabMax tokens. */
export const arrayElementsMax = 1 << 20;

/** Elements of all metadata arrays together: each becomes a JavaScript value of about 8 bytes. */
export const arrayElementsTotalMax = 4 << 20;

/** Tensors: kLayersMax layers of 14, and a few around them. */
export const tensorsMax = 4_096;

/** ggml's own bound on tensor dimensions. */
export const tensorDimensionsMax = 4;

/** Bytes that tensor data may be aligned to. */
export const alignmentMax = 1 << 16;

/** Sizes of a model: the same as in engine/include/leanedge/model.h. */
export const layersMax = 256;
export const headDimMax = 256;
export const headsMax = 1_024;
export const dimMax = 65_536;
export const ffDimMax = 1 << 18;
export const vocabMax = 1 << 20;
export const windowTokensMax = 1 << 20;

/** A model file as a whole: positions in it stay exact in a double with room to spare. */
export const fileBytesMax = 2 ** 40;

/** The unit that fingerprints hash and asset shards hold; also the most that a stream buffers. */
export const fileBlockBytes = 4 * 1024 * 1024;

/** Blocks of a sharded file: 16 GiB, far beyond what an edge isolate can hold. */
export const shardsMax = 4_096;

/** Bytes that a stream of a file or of memory hands out at a time. */
export const streamChunkBytes = 256 * 1024;
