import { mkdtemp, readdir, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import {
  deleteModel,
  findModel,
  listModels,
  modelPaths,
  modelsFolder,
  saveRecord,
} from "./models-folder.js";
import { resolveModel } from "./resolve-model.js";

let folder: string;
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), "leanedge-models-"));
});
afterEach(() => rm(folder, { recursive: true, force: true }));

/** Puts a model of four bytes into the folder. */
async function keep(name: string): Promise<string> {
  const { file } = modelPaths(folder, name);
  await writeFile(file, "GGUF");
  const source = "somewhere";
  const sha256 = "0".repeat(64);
  const fetchedAt = "2026-01-01T00:00:00.000Z";
  await saveRecord(folder, { name, source, sha256, fetchedAt, sizeBytes: 4, licence: "MIT" });
  return file;
}

describe("the models folder", () => {
  it.each<[string, NodeJS.Platform, Record<string, string>, string]>([
    ["Linux", "linux", {}, "/users/a/.local/share/leanedge/models"],
    ["Linux with a data folder", "linux", { XDG_DATA_HOME: "/d" }, "/d/leanedge/models"],
    [
      "Linux with a relative one",
      "linux",
      { XDG_DATA_HOME: "d" },
      "/users/a/.local/share/leanedge/models",
    ],
    ["macOS", "darwin", {}, "/users/a/Library/Application Support/leanedge/models"],
    ["Windows", "win32", { LOCALAPPDATA: "/local" }, "/local/leanedge/models"],
    ["a named one", "linux", { LEANEDGE_MODELS_DIR: "models" }, resolve("models")],
  ])("has its place on %s", (_, platform, environment, path) => {
    expect(modelsFolder(environment, platform, "/users/a")).toBe(path);
  });

  it("lists what is there and complete", async () => {
    await keep("owner/b:x.gguf");
    await keep("a");
    await writeFile(await keep("cut"), "GG");
    await rm(await keep("lost"));
    await writeFile(join(folder, "broken.json"), '{"name"');
    await writeFile(join(folder, "foreign.json"), '{"name": 1}');
    await writeFile(join(folder, "c.gguf.part.json"), '{"source": "c"}');
    expect((await listModels(folder)).map(({ name }) => name)).toEqual(["a", "owner/b:x.gguf"]);
    expect(await listModels(join(folder, "none"))).toEqual([]);
  });

  it("does not take one model for another whose file is called the same", async () => {
    await keep("a/b:c.gguf");
    await expect(findModel(folder, "a/b:c")).rejects.toThrow(/belongs to "a\/b:c.gguf"/);
  });

  it("keeps names inside", () => {
    for (const name of ["../../x", "https://h/../../x.gguf", "/etc/x", "..", "a\0b", "C:\\x"]) {
      const { file } = modelPaths("/models", name);
      expect(file).toMatch(/^\/models\/[A-Za-z0-9_][A-Za-z0-9._-]*\.gguf$/);
    }
  });

  it("deletes a model and what is left of broken pulls", async () => {
    await keep("a");
    await writeFile(modelPaths(folder, "a").part, "12345");
    expect(await deleteModel(folder, "a")).toBeGreaterThan(9);
    expect(await readdir(folder)).toEqual([]);
  });
});

describe("a model's name or path", () => {
  it("may be a file", async () => {
    const path = join(folder, "my.gguf");
    await writeFile(path, "GGUF");
    expect(await resolveModel(path, folder)).toEqual({ path, fetched: undefined });
    await expect(resolveModel(join(folder, "no.gguf"), folder)).rejects.toThrow(/there is no file/);
  });

  it("may be a fetched model", async () => {
    const path = await keep("smollm2-135m-instruct");
    expect((await resolveModel("SmolLM2-135M-Instruct", folder)).path).toBe(path);
    const url = "https://example.com/models/x.gguf";
    const other = await keep(url);
    expect((await resolveModel(url, folder)).path).toBe(other);
  });

  it("may leave out what the fetched files make clear", async () => {
    const q8 = await keep("owner/model:m-Q8_0.gguf");
    const old = await keep("owner/model:m-Q8_0.gguf@v1");
    expect((await resolveModel("owner/model", folder)).path).toBe(q8);
    expect((await resolveModel("owner/model@v1", folder)).path).toBe(old);
    const q4 = await keep("owner/model:m-Q4_0.gguf");
    expect((await resolveModel("owner/model:q4_0", folder)).path).toBe(q4);
    expect((await resolveModel("owner/model:m-Q8_0.gguf", folder)).path).toBe(q8);
    await expect(resolveModel("owner/model", folder)).rejects.toMatchObject({ code: "ambiguous" });
  });

  it("names the command that fetches what is not there", async () => {
    await expect(resolveModel("smollm2-135m-instruct", folder)).rejects.toThrow(
      /is neither a file nor a model in .*: fetch it with leanedge pull smollm2-135m-instruct$/,
    );
    await expect(resolveModel("owner/model:Q8_0", folder)).rejects.toMatchObject({
      code: "not-found",
    });
  });
});
