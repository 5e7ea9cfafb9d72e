/**
 * HTTP/1.1 and HTTP/2 without TLS on one TCP port. A client of HTTP/2 with prior knowledge starts its connection with a
 * fixed text (RFC 9113, section 3.4) that no HTTP/1.1 request starts with; which it is shows in the first bytes.
 */
import { createServer as createHttp1 } from "node:http";
import { constants, createServer as createHttp2 } from "node:http2";
import { createServer, type Server, type Socket } from "node:net";
import type { connectNodeAdapter } from "@connectrpc/connect-node";
import {
  connectionsMax,
  headerBytesMax,
  headerMsMax,
  http2StreamsMax,
  idleConnectionMsMax,
  readerStallMsMax,
} from "./limits.js";
import { writeTogether } from "./write-together.js";

/** Answers a request of either protocol. */
export type RequestListener = ReturnType<typeof connectNodeAdapter>;

/** What a port may be told besides its listener. */
export interface OnePortOptions {
  /** Longest that a client may take nothing of what waits for it, or send nothing of what it began; milliseconds. */
  readonly readerStallMs?: number;
  /** Longest that a connection may take for its first bytes, and for a whole header block of HTTP/1.1; milliseconds. */
  readonly headerMs?: number;
  /** Called when a call is ended since its client stood still. */
  readonly onStalledReader?: () => void;
}

/** A port that is not listening yet. */
export interface OnePort {
  /** Starts listening; resolves with the port number. */
  listen(host: string, port: number): Promise<number>;
  /** Takes no more connections, and closes those that are open; answers under way get up to `graceMs` to be sent. */
  close(graceMs: number): Promise<void>;
}

/** How the text that an HTTP/2 connection starts with begins; no method of HTTP/1.1 does. */
const http2Start = Buffer.from("PRI");

/** How often connections are looked at that did not end their header block. */
const headerPollMsMax = 1_000;

/** How often a port that closes looks whether its answers are sent. */
const closePollMs = 10;

/** Makes a port. */
export function createOnePort(listener: RequestListener, options: OnePortOptions = {}): OnePort {
  const { headerMs = headerMsMax, readerStallMs = readerStallMsMax, onStalledReader } = options;
  const answering = new Set<object>();
  const answer: RequestListener = (request, response) => {
    answering.add(response);
    response.once("close", () => answering.delete(response));
    listener(request, response);
  };
  const http1 = createHttp1(
    {
      maxHeaderSize: headerBytesMax,
      keepAliveTimeout: idleConnectionMsMax,
      headersTimeout: headerMs,
      // A restore takes as long as its cache waits for memory; who sends nothing is ended below.
      requestTimeout: 0,
      connectionsCheckingInterval: Math.min(headerMs, headerPollMsMax),
    },
    (request, response) => {
      response.setTimeout(readerStallMs, () => {
        // All is sent and all is taken: a call that waits. What it writes later starts the clock again.
        if (request.complete && response.writableLength === 0) return;
        onStalledReader?.();
        request.socket.destroy();
      });
      writeTogether(response);
      answer(request, response);
    },
  );
  // Node watches over header blocks from then on, and this server never listens itself.
  http1.emit("listening");
  const http2 = createHttp2(
    {
      maxHeaderListPairs: 64,
      settings: { maxConcurrentStreams: http2StreamsMax, maxHeaderListSize: headerBytesMax },
    },
    (request, response) => {
      response.stream.setTimeout(readerStallMs, () => {
        const { stream } = response;
        if ((stream.endAfterHeaders || request.complete) && stream.writableLength === 0) return;
        onStalledReader?.();
        response.stream.close(constants.NGHTTP2_ENHANCE_YOUR_CALM);
      });
      answer(request, response);
    },
  );
  http2.setTimeout(idleConnectionMsMax);

  const sockets = new Set<Socket>();
  // Half open connections are what HTTP/1.1 servers accept as well.
  const tcp = createServer({ allowHalfOpen: true, noDelay: true }, (socket) => {
    sockets.add(socket);
    socket.once("close", () => sockets.delete(socket));
    tellApart(socket, headerMs, (isHttp2) => (isHttp2 ? http2 : http1).emit("connection", socket));
  });
  tcp.maxConnections = connectionsMax;

  return {
    listen: (host, port) => listen(tcp, host, port),
    async close(graceMs) {
      const closed = new Promise((resolve) => tcp.close(resolve));
      const deadlineMs = performance.now() + graceMs;
      while (answering.size > 0 && performance.now() < deadlineMs) {
        await new Promise((resolve) => setTimeout(resolve, closePollMs));
      }
      for (const socket of sockets) socket.destroy();
      // Ends the watch over header blocks.
      http1.close();
      await closed;
    },
  };
}

function listen(tcp: Server, host: string, port: number): Promise<number> {
  return new Promise((resolve, reject) => {
    tcp.once("error", reject);
    tcp.listen({ host, port }, () => {
      tcp.off("error", reject);
      const address = tcp.address();
      resolve(typeof address === "object" && address !== null ? address.port : port);
    });
  });
}

/** Reads the first bytes of a connection, puts them back, and says what they are. */
function tellApart(socket: Socket, headerMs: number, hand: (isHttp2: boolean) => void): void {
  let head = Buffer.alloc(0);
  const timer = setTimeout(() => socket.destroy(), headerMs);
  const forget = (): void => {
    clearTimeout(timer);
    socket.off("data", onData);
    socket.off("end", onEnd);
    socket.off("close", forget);
  };
  const onData = (chunk: Buffer): void => {
    head = Buffer.concat([head, chunk]);
    const length = Math.min(head.length, http2Start.length);
    const same = head.subarray(0, length).equals(http2Start.subarray(0, length));
    if (same && length < http2Start.length) return;
    forget();
    socket.pause();
    socket.off("error", ignore);
    socket.unshift(head);
    hand(same);
    // Whoever has the socket now listens; what was put back comes first.
    process.nextTick(() => socket.resume());
  };
  const onEnd = (): void => {
    forget();
    socket.destroy();
  };
  socket.on("data", onData);
  socket.on("end", onEnd);
  socket.on("close", forget);
  socket.on("error", ignore);
}

/** A connection that breaks before its first request concerns nobody. */
function ignore(): void {
  return undefined;
}
