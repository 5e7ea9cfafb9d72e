/**
 * The command that Connect's conformance runner starts for each server it wants. The Worker and the front run already
 * (see run.ts); this only tells the runner which of the two speaks the HTTP version it asks for.
 *
 * Usage: server-under-test.ts <port for HTTP/1.1> <port for HTTP/2>
 */
import { Buffer } from "node:buffer";
import { BinaryReader, BinaryWriter, WireType } from "@bufbuild/protobuf/wire";

/** Field numbers of ServerCompatRequest and ServerCompatResponse, and the number of HTTP/2 among the versions. */
const versionField = 2;
const hostField = 1;
const portField = 2;
const http2 = 2;

/** Largest request that is believed, in bytes; the runner's are below a kibibyte, certificates included. */
const requestBytesMax = 64 * 1024;

async function readRequest(): Promise<Uint8Array> {
  let bytes = Buffer.alloc(0);
  for await (const chunk of process.stdin as AsyncIterable<Buffer>) {
    bytes = Buffer.concat([bytes, chunk]);
    if (bytes.byteLength >= 4) {
      const length = bytes.readUInt32BE(0);
      if (length > requestBytesMax) {
        throw new Error(
          `request of ${length} bytes is larger than the bound of ${requestBytesMax}`,
        );
      }
      if (bytes.byteLength >= 4 + length) {
        return bytes.subarray(4, 4 + length);
      }
    }
  }
  throw new Error(`stdin ended after ${bytes.byteLength} bytes of the request`);
}

function httpVersionOf(request: Uint8Array): number {
  const reader = new BinaryReader(request);
  while (reader.pos < reader.len) {
    const [field, wireType] = reader.tag();
    if (field === versionField && wireType === WireType.Varint) {
      return reader.int32();
    }
    reader.skip(wireType, field);
  }
  return 0;
}

function writeResponse(port: number): void {
  const message = new BinaryWriter()
    .tag(hostField, WireType.LengthDelimited)
    .string("127.0.0.1")
    .tag(portField, WireType.Varint)
    .uint32(port)
    .finish();
  const size = Buffer.alloc(4);
  size.writeUInt32BE(message.byteLength);
  process.stdout.write(Buffer.concat([size, message]));
}

const [http1Port, http2Port] = process.argv.slice(2).map(Number);
if (http1Port === undefined || http2Port === undefined) {
  throw new Error("usage: server-under-test.ts <port for HTTP/1.1> <port for HTTP/2>");
}
writeResponse(httpVersionOf(await readRequest()) === http2 ? http2Port : http1Port);
// The runner ends each server with SIGTERM; until then this one must not exit.
const keepAlive = setInterval(() => undefined, 60_000);
process.on("SIGTERM", () => clearInterval(keepAlive));
