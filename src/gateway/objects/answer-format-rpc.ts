/** An answer as a stream of an RPC: envelopes of Connect's protocol or frames of gRPC-web, binary and not compressed. */
import { toBinary } from "@bufbuild/protobuf";
import type { ConnectError } from "@connectrpc/connect";
import { createEndStreamSerialization, endStreamFlag } from "@connectrpc/connect/protocol-connect";
import {
  setTrailerStatus,
  trailerFlag,
  trailerSerialize,
} from "@connectrpc/connect/protocol-grpc-web";
import { GenerateResponseSchema } from "../../gen/leanedge/v1/session_pb.js";
import { clientError } from "../errors.js";
import { withRetryInfo } from "../connect/retry-info.js";
import type { AnswerFormat } from "./answer-format.js";
import { encodeFrames } from "./session-wire.js";
import type { Frame } from "./session-wire.js";

const connectEnd = createEndStreamSerialization(undefined);

/** Writes the last frame of a stream. */
type EndWriter = (error: ConnectError | undefined) => Frame;

/** Envelopes of Connect; the last one is JSON. */
export const connectFormat: AnswerFormat = rpcFormat((error) => ({
  kind: endStreamFlag,
  payload: connectEnd.serialize({
    metadata: new Headers(),
    ...(error === undefined ? {} : { error }),
  }),
}));

/** Frames of gRPC-web; the last one holds the trailers. */
export const grpcWebFormat: AnswerFormat = rpcFormat((error) => {
  const trailers = new Headers();
  setTrailerStatus(trailers, error);
  return { kind: trailerFlag, payload: trailerSerialize(trailers) };
});

/** The head says nothing of the answer: Connect has written it by then. */
function rpcFormat(end: EndWriter): AnswerFormat {
  return {
    passes: true,
    head: () => Promise.resolve(),
    write(events, ended) {
      const frames = events.map((event): Frame => ({
        kind: 0,
        payload: toBinary(GenerateResponseSchema, event),
      }));
      return encodeFrames(ended ? [...frames, end(undefined)] : frames);
    },
    fail: (error) => encodeFrames([end(withRetryInfo(clientError(error)))]),
  };
}
