import { readFile } from "node:fs/promises";
import { describe, expect, it } from "vitest";
import { packagePath } from "./repository.js";
import { listenAddress, listenedAddress, workerdConfig } from "./workerd-config.js";

const options = {
  assets: "/srv/page",
  storage: "/var/lib/leanedge",
  listen: "[::1]:8080",
  variables: ["LEANEDGE_MODELS"],
};

describe("workerdConfig", () => {
  it("names what wrangler.toml names, each object under a key that stays", async () => {
    const toml = await readFile(packagePath("wrangler.toml"), "utf8");
    const config = workerdConfig(toml, ["a.wasm"], options);
    const classes = [...toml.matchAll(/class_name = "(\w+)"/g)].map(([, type]) => type ?? "");
    expect(classes).toContain("SessionObject");
    for (const type of classes) {
      expect(config).toContain(`(className = "${type}", uniqueKey = "leanedge-${type}"`);
    }
    expect(config).toContain(/^compatibility_date = (.*)$/m.exec(toml)?.[1]);
    expect(config).toContain('(name = "./a.wasm", wasm = embed "a.wasm")');
    expect(config).toContain('address = "[::1]:8080"');
    expect(config).toContain('fromEnvironment = "LEANEDGE_MODELS"');
    expect(config).toContain('v8Flags = ["--initial-old-space-size=256"]');
  });

  it("gives each of several processes the way to all of them", async () => {
    const toml = await readFile(packagePath("wrangler.toml"), "utf8");
    expect(workerdConfig(toml, [], options)).not.toContain("PEER_0");
    const config = workerdConfig(toml, [], { ...options, processes: 2 });
    for (const index of [0, 1]) {
      expect(config).toContain(`(name = "PEER_${index}", service = "peer-${index}")`);
      expect(config).toContain(`(name = "peer-${index}", external = (address = "unix:objects"`);
    }
    expect(config).not.toContain("PEER_2");
    expect(config).toContain('fromEnvironment = "LEANEDGE_PROCESS"');
    expect(config).toContain('service = (name = "gateway", entrypoint = "ObjectServer")');
  });

  it("says how many objects hold the sessions, or leaves that to what starts workerd", async () => {
    const toml = await readFile(packagePath("wrangler.toml"), "utf8");
    const name = '(name = "LEANEDGE_SESSION_OBJECTS"';
    expect(workerdConfig(toml, [], { ...options, sessionObjects: 0 })).toContain(
      `${name}, text = "0")`,
    );
    expect(workerdConfig(toml, [], options)).toContain(
      `${name}, fromEnvironment = "LEANEDGE_SESSION_OBJECTS")`,
    );
  });

  it("quotes what a path may hold", () => {
    const toml =
      'compatibility_date = "2026-01-01"\ncompatibility_flags = []\n{ name = "A", class_name = "B" }';
    const config = workerdConfig(toml, [], { ...options, storage: '/a "b"\\c' });
    expect(config).toContain('path = "/a \\"b\\"\\\\c", writable');
  });

  it("says what wrangler.toml lacks", () => {
    expect(() => workerdConfig("", [], options)).toThrow("no compatibility date or no flags");
    const toml = 'compatibility_date = "2026-01-01"\ncompatibility_flags = []';
    expect(() => workerdConfig(toml, [], options)).toThrow("no Durable Objects");
  });
});

describe("an address to listen on", () => {
  it.each([
    ["127.0.0.1", 8080],
    ["::1", 443],
    ["example.org", 0],
  ])("is read as it is written: %s", (host, port) => {
    expect(listenedAddress(listenAddress(host, port))).toEqual({ host, port });
  });

  it.each(["8080", ":8080", "127.0.0.1", "::1:80", "[::1]", "a:65536", "a:-1"])(
    "is refused: %s",
    (wrong) => {
      expect(() => listenedAddress(wrong)).toThrow(`"${wrong}" is not HOST:PORT`);
    },
  );
});
