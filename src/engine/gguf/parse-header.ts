/** The values of a scanned header, through `@huggingface/gguf`. */
import { gguf } from "@huggingface/gguf";
import type { GGUFTensorInfo } from "@huggingface/gguf";
import { ModelFileError } from "./errors.js";
import { alignmentMax } from "./limits.js";
import { Metadata } from "./metadata.js";
import type { MetadataEntry } from "./metadata.js";
import type { ScannedHeader } from "./scan-header.js";

/** A header's values, not yet judged. */
export interface ParsedHeader {
  readonly metadata: Metadata;
  /** As they stand in the table; offsets count from `dataOffset`. */
  readonly tensors: readonly GGUFTensorInfo[];
  /** First byte of tensor data, from the start of the file. */
  readonly dataOffset: number;
  /** What tensor data is aligned to, in bytes. */
  readonly alignment: number;
}

/** The parser's own entries, which stand in its result beside the file's keys. */
const parserKeys = new Set(["version", "tensor_count", "kv_count"]);

/** The parser reads through `fetch`: this one answers its range requests from memory. */
function fetchFrom(bytes: Uint8Array<ArrayBuffer>): typeof fetch {
  return (_input, init) => {
    const range = /^bytes=(\d+)-(\d+)$/.exec(new Headers(init?.headers).get("range") ?? "");
    if (range === null) {
      return Promise.reject(new Error("the GGUF parser asked for something other than a range"));
    }
    const [begin, last] = [Number(range[1]), Number(range[2])];
    return Promise.resolve(new Response(bytes.subarray(begin, last + 1)));
  };
}

function restoreByteOrderMarks(entry: MetadataEntry, indices: readonly number[]): MetadataEntry {
  if (!Array.isArray(entry.value)) return entry;
  const value = [...(entry.value as string[])];
  for (const index of indices) value[index] = `\uFEFF${value[index] ?? ""}`;
  return { ...entry, value };
}

/** Parses a scanned header. Throws ModelFileError. */
export async function parseHeader(header: ScannedHeader): Promise<ParsedHeader> {
  let parsed;
  try {
    parsed = await gguf("https://model.invalid/header", {
      fetch: fetchFrom(header.bytes),
      typedMetadata: true,
    });
  } catch (cause) {
    const reason = cause instanceof Error ? cause.message : String(cause);
    throw new ModelFileError("metadata", `the GGUF header cannot be parsed: ${reason}`, { cause });
  }
  const end = parsed.tensorInfoByteRange[1];
  if (end !== header.bytes.length || !parsed.littleEndian) {
    throw new ModelFileError(
      "metadata",
      `the GGUF header was parsed to byte ${end}, but ends at ${header.bytes.length}`,
    );
  }
  const entries = new Map<string, MetadataEntry>();
  for (const [key, entry] of Object.entries<MetadataEntry>(parsed.typedMetadata)) {
    if (parserKeys.has(key)) continue;
    const marks = header.byteOrderMarks.get(key);
    entries.set(key, marks === undefined ? entry : restoreByteOrderMarks(entry, marks));
  }
  // Keys that the parser's plain object cannot hold ("__proto__", "version") would vanish silently.
  const count = Number(parsed.metadata.kv_count);
  if (entries.size !== count) {
    throw new ModelFileError(
      "metadata",
      `${entries.size} of ${count} metadata keys have usable names`,
    );
  }
  const metadata = new Metadata(entries);
  const alignment = metadata.integer("general.alignment", 8, alignmentMax) ?? 32;
  if ((alignment & (alignment - 1)) !== 0) {
    throw new ModelFileError(
      "metadata",
      `metadata "general.alignment" is ${alignment}, not a power of two`,
    );
  }
  const dataOffset = Math.ceil(end / alignment) * alignment;
  return { metadata, tensors: parsed.tensorInfos, dataOffset, alignment };
}
