/** A storage on a file system that has no sockets. */
import { mkdtemp, readdir, rm } from "node:fs/promises";
import type { Server, Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { holdStorage } from "./storage-hold.js";

const refused = vi.hoisted(() => ({ code: "" }));

vi.mock(import("node:net"), async (original) => {
  const net = await original();
  const createServer = (took: (socket: Socket) => void): Server => {
    const server = net.createServer(took);
    vi.spyOn(server, "listen").mockImplementation(() => {
      const error = Object.assign(new Error(`listen ${refused.code}`), { code: refused.code });
      process.nextTick(() => server.emit("error", error));
      return server;
    });
    return server;
  };
  return { ...net, createServer: createServer as typeof net.createServer };
});

let storage: string;

beforeEach(async () => {
  storage = await mkdtemp(join(tmpdir(), "leanedge-hold-"));
});

afterEach(async () => {
  vi.restoreAllMocks();
  await rm(storage, { recursive: true });
});

describe("a storage without sockets", () => {
  it.each(["ENOTSUP", "EPERM", "EINVAL"])(
    "is used all the same, with a warning: %s",
    async (code) => {
      refused.code = code;
      const warn = vi.spyOn(console, "warn").mockReturnValue();
      const hold = await holdStorage(storage, "gateway");
      expect(hold.fd).toBeUndefined();
      expect(warn.mock.calls).toEqual([[expect.stringContaining(`${storage} has no sockets`)]]);
      await hold.release();
      expect(await readdir(storage)).toEqual([]);
    },
  );

  it("is refused where something else is wrong", async () => {
    refused.code = "ENOSPC";
    await expect(holdStorage(storage, "gateway")).rejects.toThrow("listen ENOSPC");
  });
});
