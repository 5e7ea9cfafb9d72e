/** Bounds of a gRPC front. A caller may change each by name. */
export interface FrontLimits {
  /** Largest request message as it is on the wire, in bytes. Larger: RESOURCE_EXHAUSTED. */
  requestMessageBytesMax: number;
  /** Largest response message as it is on the wire, in bytes. Larger: RESOURCE_EXHAUSTED. */
  responseMessageBytesMax: number;
  /** Largest block of trailers, before and after decompression, in bytes. Larger: INTERNAL. */
  trailerBytesMax: number;
  /**
   * Largest request header block, counted as HTTP/2 does (name + value + 32 a field), in bytes. Larger:
   * RESOURCE_EXHAUSTED, or HTTP 431; above twice the bound: a reset.
   */
  headerBytesMax: number;
  /** Connections that are open at the same time; further ones are closed at once. */
  connectionsMax: number;
  /** Calls in flight on one connection; clients queue further ones. */
  streamsPerConnectionMax: number;
  /** Connections to the target that are open at the same time; further calls wait for one. */
  upstreamConnectionsMax: number;
  /** Pause between two pings that check that a client is still there, in milliseconds. */
  pingIntervalMs: number;
  /** How long a client may take to answer a ping, in milliseconds; then its calls are cancelled. */
  pingAnswerMsMax: number;
  /** How long a connection without calls is kept, in milliseconds. */
  connectionIdleMsMax: number;
  /** How long a client may go on sending after its answer is complete, in milliseconds; then its stream is reset. */
  lingerMsMax: number;
  /** How long `close` lets running calls finish, in milliseconds; then they are cancelled. */
  drainMsMax: number;
}

/** The bounds of a front that names none. */
export const defaultFrontLimits: FrontLimits = {
  // The Worker's own bounds are 4 and 8 MiB after decompression; the front's must not be the smaller ones.
  requestMessageBytesMax: 4 * 1024 * 1024,
  responseMessageBytesMax: 8 * 1024 * 1024,
  trailerBytesMax: 64 * 1024,
  headerBytesMax: 16 * 1024,
  connectionsMax: 1000,
  // What gRPC servers advertise by custom: clients open a second connection when they need more.
  streamsPerConnectionMax: 100,
  upstreamConnectionsMax: 512,
  pingIntervalMs: 20_000,
  pingAnswerMsMax: 10_000,
  connectionIdleMsMax: 5 * 60_000,
  lingerMsMax: 1000,
  drainMsMax: 10_000,
};
