/** Bounds that hold for every RPC of a mount. A mount may lower or raise them by name. */
export interface RpcLimits {
  /** Largest request message after decompression, in bytes, 1 to 2^32 - 1. Larger: RESOURCE_EXHAUSTED. */
  messageReadBytesMax: number;
  /** Largest response message before compression, in bytes, 1 to 2^32 - 1. Larger: RESOURCE_EXHAUSTED. */
  messageWriteBytesMax: number;
  /** Smallest response message that is compressed, in bytes. */
  compressBytesMin: number;
  /**
   * How much of a request that nobody wants any more is read and dropped before the answer ends, in bytes. HTTP/1.1
   * clients that still send would otherwise lose the answer with the connection.
   */
  discardBytesMax: number;
  /** How long that may take, in milliseconds. */
  discardMsMax: number;
  /** Largest deadline a client may ask for, in milliseconds. A longer one: INVALID_ARGUMENT. */
  deadlineMsMax: number;
  /** Deadline of a call whose client names none, in milliseconds; undefined: the call has none. */
  deadlineMsDefault: number | undefined;
}

/** The bounds of a mount that names none. */
export const defaultRpcLimits: RpcLimits = {
  // A prompt that fills the largest window in use (128 Ki tokens) is below 1 MiB of text.
  messageReadBytesMax: 4 * 1024 * 1024,
  // Snapshots travel in chunks of at most 1 MiB; pages of a list stay far below this.
  messageWriteBytesMax: 8 * 1024 * 1024,
  // Below about a kibibyte gzip costs more CPU time than the bytes it saves.
  compressBytesMin: 1024,
  discardBytesMax: 16 * 1024 * 1024,
  discardMsMax: 2000,
  // The longest answer a slow CPU engine may take.
  deadlineMsMax: 60 * 60 * 1000,
  deadlineMsDefault: undefined,
};
