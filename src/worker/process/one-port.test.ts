import { request as http1Request } from "node:http";
import { connect as http2Connect } from "node:http2";
import { connect, type Socket } from "node:net";
import { afterEach, describe, expect, it } from "vitest";
import {
  createOnePort,
  type OnePort,
  type OnePortOptions,
  type RequestListener,
} from "./one-port.js";

const closers: (() => unknown)[] = [];

afterEach(async () => {
  for (const close of closers.splice(0).reverse()) await close();
});

const tellVersion: RequestListener = (request, response) => {
  response.end(`HTTP/${request.httpVersion} ${request.url ?? ""}`);
};

async function open(listener = tellVersion, options: OnePortOptions = {}): Promise<number> {
  const port: OnePort = createOnePort(listener, options);
  closers.push(() => port.close(0));
  return port.listen("127.0.0.1", 0);
}

function get1(port: number, path: string): Promise<string> {
  return new Promise((resolve, reject) => {
    http1Request({ port, path }, (response) => {
      let body = "";
      response.setEncoding("utf8").on("data", (text: string) => (body += text));
      response.on("end", () => resolve(body));
    })
      .on("error", reject)
      .end();
  });
}

async function get2(port: number, path: string): Promise<string> {
  const session = http2Connect(`http://127.0.0.1:${port}`);
  const stream = session.request({ ":path": path });
  let body = "";
  for await (const chunk of stream.setEncoding("utf8")) body += String(chunk);
  session.close();
  return body;
}

function raw(port: number): Promise<Socket> {
  return new Promise((resolve) => {
    const socket = connect(port, "127.0.0.1", () => resolve(socket));
    // Connections that are closed with data under way end with a reset.
    socket.on("error", () => undefined);
  });
}

describe("createOnePort", () => {
  it("answers HTTP/1.1 and HTTP/2 on one port, at the same time", async () => {
    const port = await open();
    const answers = await Promise.all([
      get1(port, "/a"),
      get2(port, "/b"),
      get1(port, "/c"),
      get2(port, "/d"),
    ]);
    expect(answers).toEqual(["HTTP/1.1 /a", "HTTP/2.0 /b", "HTTP/1.1 /c", "HTTP/2.0 /d"]);
  });

  it("tells them apart whatever pieces the first bytes come in", async () => {
    const port = await open();
    const socket = await raw(port);
    closers.push(() => socket.destroy());
    let answer = "";
    socket.setEncoding("utf8").on("data", (text: string) => (answer += text));
    // Starts as the preface of HTTP/2 does.
    for (const piece of ["P", "U", "T / HTTP/1.1\r\nhost: a\r\n", "content-length: 0\r\n\r\n"]) {
      socket.write(piece);
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
    await expect.poll(() => answer).toContain("HTTP/1.1 /");
  });

  it("keeps a connection for several HTTP/1.1 requests", async () => {
    const port = await open();
    const socket = await raw(port);
    closers.push(() => socket.destroy());
    let answer = "";
    socket.setEncoding("utf8").on("data", (text: string) => (answer += text));
    for (const path of ["/one", "/two"]) {
      socket.write(`GET ${path} HTTP/1.1\r\nhost: a\r\n\r\n`);
      await expect.poll(() => answer).toContain(path);
    }
  });

  it("survives connections that end or break before they say anything", async () => {
    const port = await open();
    (await raw(port)).end();
    (await raw(port)).resetAndDestroy();
    const half = await raw(port);
    half.write("PR");
    half.end();
    expect(await get2(port, "/after")).toBe("HTTP/2.0 /after");
  });

  it.each(["1.1", "2"])("ends a call whose reader takes nothing over HTTP/%s", async (version) => {
    let stalled = 0;
    let closed = false;
    const port = await open(
      (_request, response) => {
        response.on("close", () => (closed = true));
        const piece = Buffer.alloc(64 * 1024);
        const write = (): void => {
          while (response.write(piece));
          response.once("drain", write);
        };
        write();
      },
      { readerStallMs: 200, onStalledReader: () => stalled++ },
    );
    if (version === "2") {
      const session = http2Connect(`http://127.0.0.1:${port}`);
      closers.push(() => session.destroy());
      const stream = session.request({ ":path": "/" });
      // Never read: the flow control window fills up.
      stream.on("error", () => undefined);
    } else {
      const socket = await raw(port);
      closers.push(() => socket.destroy());
      socket.pause();
      socket.write("GET / HTTP/1.1\r\nhost: a\r\n\r\n");
    }
    await expect.poll(() => [stalled, closed], { timeout: 5_000 }).toEqual([1, true]);
  });

  it("ends requests whose rest does not come", async () => {
    let stalled = 0;
    const port = await open(() => undefined, {
      readerStallMs: 100,
      onStalledReader: () => stalled++,
    });
    const socket = await raw(port);
    const ended = new Promise((resolve) => socket.once("close", resolve));
    socket.write("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 10\r\n\r\nhalf");
    await ended;
    const session = http2Connect(`http://127.0.0.1:${port}`);
    closers.push(() => session.destroy());
    const stream = session.request({ ":method": "POST", ":path": "/" });
    stream.on("error", () => undefined);
    stream.write("half");
    await new Promise((resolve) => stream.once("close", resolve));
    expect(stalled).toBe(2);
  });

  it("leaves calls alone that have nothing to say for a while", async () => {
    let stalled = 0;
    const port = await open(
      (_request, response) => {
        setTimeout(() => response.end("late"), 300);
      },
      { readerStallMs: 100, onStalledReader: () => stalled++ },
    );
    expect(await Promise.all([get1(port, "/"), get2(port, "/")])).toEqual(["late", "late"]);
    expect(stalled).toBe(0);
  });

  it("closes what is open", async () => {
    const port = createOnePort(() => undefined);
    const number = await port.listen("127.0.0.1", 0);
    const socket = await raw(number);
    const ended = new Promise((resolve) => socket.once("close", resolve));
    socket.write("GET / HTTP/1.1\r\nhost: a\r\n\r\n");
    await port.close(0);
    await ended;
    await expect(get1(number, "/")).rejects.toThrow("ECONNREFUSED");
  });

  it.each([
    ["its first header block", ""],
    ["the header block behind an answer", "GET /first HTTP/1.1\r\nhost: a\r\n\r\n"],
  ])("closes a connection that does not end %s", async (_, before) => {
    const port = await open(tellVersion, { headerMs: 200 });
    const socket = await raw(port);
    closers.push(() => socket.destroy());
    let answer = "";
    socket.setEncoding("utf8").on("data", (text: string) => (answer += text));
    const closed = new Promise((resolve) => socket.once("close", resolve));
    if (before !== "") {
      socket.write(before);
      await expect.poll(() => answer).toContain("/first");
    }
    socket.write("GET /never HTTP/1.1\r\nhost: a\r\n");
    // Something comes all the time, and it never ends.
    const trickle = setInterval(() => socket.write("x-more: 1\r\n"), 50);
    closers.push(() => clearInterval(trickle));
    await closed;
    expect(answer).not.toContain("/never");
  });
});
