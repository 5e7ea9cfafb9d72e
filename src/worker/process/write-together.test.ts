import { createServer, type IncomingMessage, type RequestListener } from "node:http";
import { connect, type AddressInfo } from "node:net";
import { afterEach, expect, it } from "vitest";
import { writeTogetherBytesMax } from "./limits.js";
import { writeTogether } from "./write-together.js";

const closers: (() => unknown)[] = [];

afterEach(() => {
  for (const close of closers.splice(0)) close();
});

/** Serves a listener whose responses write together. */
async function serve(listener: RequestListener): Promise<number> {
  const server = createServer((request, response) => {
    writeTogether(response);
    listener(request, response);
  });
  closers.push(() => server.closeAllConnections());
  closers.push(() => server.close());
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  return (server.address() as AddressInfo).port;
}

/** The chunks of the answer's body, as they stand in its transfer coding. */
async function chunksOf(port: number): Promise<string[]> {
  const socket = connect(port, "127.0.0.1");
  closers.push(() => socket.destroy());
  socket.write("GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n");
  let text = "";
  for await (const part of socket.setEncoding("latin1")) text += String(part);
  const chunks: string[] = [];
  for (let at = text.indexOf("\r\n\r\n") + 4; ;) {
    const end = text.indexOf("\r\n", at);
    const length = parseInt(text.slice(at, end), 16);
    if (!(length > 0)) return chunks;
    chunks.push(text.slice(end + 2, end + 2 + length));
    at = end + 2 + length + 2;
  }
}

const bytes = (text: string): Uint8Array => new TextEncoder().encode(text);
const nextMoment = (): Promise<void> => new Promise((resolve) => setTimeout(resolve, 5));

it("sends what is written at one moment in one chunk, the next moment's in another", async () => {
  const port = await serve((_, response) => {
    void (async () => {
      for (const text of ["a", "b", "c"]) {
        response.write(bytes(text));
        await Promise.resolve();
      }
      await nextMoment();
      response.write(bytes("d"));
      response.write(bytes("e"));
      response.end();
    })();
  });
  expect(await chunksOf(port)).toEqual(["abc", "de"]);
});

it("keeps the order where text, bytes and the end come together", async () => {
  const port = await serve((_, response) => {
    response.write(bytes("1"));
    response.write("2");
    response.write(bytes("3"));
    response.end("4");
  });
  expect((await chunksOf(port)).join("")).toBe("1234");
});

it("tells each writer that its bytes have left", async () => {
  const told: string[] = [];
  const port = await serve((_, response) => {
    response.write(bytes("a"), () => told.push("a"));
    response.write(bytes("b"), "binary", () => {
      told.push("b");
      response.end();
    });
  });
  expect(await chunksOf(port)).toEqual(["ab"]);
  expect(told).toEqual(["a", "b"]);
});

it("gathers a bounded number of bytes", async () => {
  const half = new Uint8Array(writeTogetherBytesMax / 2 + 1).fill(97);
  const port = await serve((_, response) => {
    for (let count = 0; count < 4; count++) response.write(half);
    response.end();
  });
  const chunks = await chunksOf(port);
  expect(chunks.map(({ length }) => length)).toEqual([2 * half.length, 2 * half.length]);
});

it("drops what nobody can take any more", async () => {
  const closed = Promise.withResolvers<Error | undefined>();
  const port = await serve((request: IncomingMessage, response) => {
    response.on("error", (error) => closed.resolve(error));
    response.once("close", () => setImmediate(() => closed.resolve(undefined)));
    response.write(bytes("a"));
    request.socket.destroy();
  });
  await expect(chunksOf(port)).resolves.toEqual([]);
  expect(await closed.promise).toBeUndefined();
});
