import { Code, ConnectError } from "@connectrpc/connect";
import type { UniversalServerResponse } from "@connectrpc/connect/protocol";

/**
 * Connect reports a request that is not valid protobuf as INTERNAL with a message of this beginning, which blames the
 * server. The functions here turn it into INVALID_ARGUMENT, as other Connect servers answer.
 */
const parseFailure = "parse binary: ";

/** For requests that stream: the messages, with a parse failure named for what it is. */
export async function* blameClientInMessages<T>(
  messages: AsyncIterable<T>,
): AsyncGenerator<T, void, undefined> {
  try {
    yield* messages;
  } catch (error) {
    if (
      error instanceof ConnectError &&
      error.code === Code.Internal &&
      error.rawMessage.startsWith(parseFailure)
    ) {
      throw new ConnectError(error.rawMessage, Code.InvalidArgument);
    }
    throw error;
  }
}

/**
 * For requests with one message, whose parse failure no interceptor sees: the response with the code corrected. Call it
 * only for a response that was made before an implementation was reached.
 */
export async function blameClientInResponse(
  response: UniversalServerResponse,
): Promise<UniversalServerResponse> {
  const { body } = response;
  const type = response.header?.get("content-type") ?? "";
  if (body === undefined) {
    return response;
  }
  if (response.status === 500 && type === "application/json") {
    return blameInJson(response, body);
  }
  if (type.startsWith("application/grpc-web")) {
    return { ...response, body: blameInTrailer(body) };
  }
  return response;
}

async function blameInJson(
  response: UniversalServerResponse,
  body: AsyncIterable<Uint8Array>,
): Promise<UniversalServerResponse> {
  const chunks: Uint8Array[] = [];
  for await (const chunk of body) {
    chunks.push(chunk);
  }
  const [only] = chunks;
  if (only === undefined || chunks.length !== 1) {
    return { ...response, body: replay(chunks) };
  }
  const text = new TextDecoder().decode(only);
  if (!text.startsWith(`{"code":"internal","message":"${parseFailure}`)) {
    return { ...response, body: replay(chunks) };
  }
  const bytes = new TextEncoder().encode(text.replace("internal", "invalid_argument"));
  const header = new Headers(response.header);
  header.set("content-length", String(bytes.byteLength));
  return { status: 400, header, body: replay([bytes]) };
}

/** gRPC-web's frame that carries the trailers has this flag and is the only frame of such a response. */
const trailerFlag = 0x80;
const frameHeadBytes = 5;

async function* blameInTrailer(
  body: AsyncIterable<Uint8Array>,
): AsyncGenerator<Uint8Array, void, undefined> {
  for await (const chunk of body) {
    yield chunk[0] === trailerFlag ? correctTrailer(chunk) : chunk;
  }
}

function correctTrailer(frame: Uint8Array): Uint8Array {
  const text = new TextDecoder().decode(frame.subarray(frameHeadBytes));
  if (!text.includes(`grpc-message: ${encodeURIComponent(parseFailure)}`)) {
    return frame;
  }
  const corrected = new TextEncoder().encode(
    text.replace(/grpc-status: 13\b/, `grpc-status: ${Code.InvalidArgument}`),
  );
  const out = new Uint8Array(frameHeadBytes + corrected.byteLength);
  out[0] = trailerFlag;
  new DataView(out.buffer).setUint32(1, corrected.byteLength);
  out.set(corrected, frameHeadBytes);
  return out;
}

async function* replay(chunks: readonly Uint8Array[]): AsyncGenerator<Uint8Array, void, undefined> {
  await Promise.resolve();
  yield* chunks;
}
