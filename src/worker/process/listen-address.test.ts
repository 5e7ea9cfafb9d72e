import { describe, expect, it } from "vitest";
import { listenAddress } from "./listen-address.js";

describe("listenAddress", () => {
  it.each([
    ["127.0.0.1:9000", { host: "127.0.0.1", port: 9000, loopback: true }],
    ["127.8.9.10:1", { host: "127.8.9.10", port: 1, loopback: true }],
    ["[::1]:0", { host: "::1", port: 0, loopback: true }],
    ["0.0.0.0:80", { host: "0.0.0.0", port: 80, loopback: false }],
    ["[::]:80", { host: "::", port: 80, loopback: false }],
    ["192.168.1.5:80", { host: "192.168.1.5", port: 80, loopback: false }],
    ["[::ffff:10.0.0.1]:80", { host: "::ffff:10.0.0.1", port: 80, loopback: false }],
  ])("reads %s", async (text, address) => {
    expect(await listenAddress(text)).toEqual(address);
  });

  it("looks names up", async () => {
    expect((await listenAddress("localhost:80")).loopback).toBe(true);
  });

  it.each(["9000", ":9000", "127.0.0.1", "127.0.0.1:65536", "::1:80", "a b:80", "h:", "h:-1"])(
    "refuses %s",
    async (text) => {
      await expect(listenAddress(text)).rejects.toThrow(`"${text}"`);
    },
  );
});
