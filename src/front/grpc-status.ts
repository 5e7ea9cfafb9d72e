/** The gRPC status codes that the front itself gives; the numbers are gRPC's. */
export const GrpcStatus = {
  unknown: 2,
  permissionDenied: 7,
  resourceExhausted: 8,
  unimplemented: 12,
  internal: 13,
  unavailable: 14,
  unauthenticated: 16,
} as const;

/** One of the codes in `GrpcStatus`. */
export type GrpcStatusCode = (typeof GrpcStatus)[keyof typeof GrpcStatus];

/** A failure that the front reports to the client as the call's status. */
export class GrpcFailure extends Error {
  /** The call's status code. */
  readonly status: GrpcStatusCode;

  /** `message` goes to the client. */
  constructor(status: GrpcStatusCode, message: string, options?: ErrorOptions) {
    super(message, options);
    this.status = status;
  }
}

/**
 * The status of a call whose HTTP answer is not gRPC, after gRPC's own table
 * (https://github.com/grpc/grpc/blob/master/doc/http-grpc-status-mapping.md).
 */
export function statusFromHttp(httpStatus: number): GrpcStatusCode {
  switch (httpStatus) {
    case 400:
      return GrpcStatus.internal;
    case 401:
      return GrpcStatus.unauthenticated;
    case 403:
      return GrpcStatus.permissionDenied;
    case 404:
      return GrpcStatus.unimplemented;
    case 429:
    case 502:
    case 503:
    case 504:
      return GrpcStatus.unavailable;
    default:
      return GrpcStatus.unknown;
  }
}

/** The trailers of a failure; gRPC percent-encodes its message. */
export function failureTrailers(failure: GrpcFailure): Record<string, string> {
  return {
    "grpc-status": String(failure.status),
    "grpc-message": encodeURIComponent(failure.message),
  };
}
