/** google.rpc.RetryInfo, which gRPC's and Connect's clients read as others read `Retry-After`. */
import { create, toBinary } from "@bufbuild/protobuf";
import { DurationSchema } from "@bufbuild/protobuf/wkt";
import { ConnectError } from "@connectrpc/connect";
import { retryAfterHeader } from "../errors.js";

/** Tag of RetryInfo.retry_delay: field 1, length-delimited. The message has no other field. */
const retryDelayTag = 0x0a;

/** The error, with when a retry may help as a detail where it says so in its metadata. */
export function withRetryInfo<T>(error: T): T {
  const seconds = error instanceof ConnectError ? error.metadata.get(retryAfterHeader) : null;
  if (error instanceof ConnectError && seconds !== null && /^\d{1,9}$/.test(seconds)) {
    const delay = toBinary(DurationSchema, create(DurationSchema, { seconds: BigInt(seconds) }));
    error.details.push({
      type: "google.rpc.RetryInfo",
      value: Uint8Array.from([retryDelayTag, delay.byteLength, ...delay]),
    });
  }
  return error;
}
