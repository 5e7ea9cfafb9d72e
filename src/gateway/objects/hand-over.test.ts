import { ScalarType, create, fromBinary, toBinary } from "@bufbuild/protobuf";
import { describe, expect, it, vi } from "vitest";
import { GenerateRequestSchema, Role } from "../../gen/leanedge/v1/session_pb.js";
import type { GenerateRequest } from "../../gen/leanedge/v1/session_pb.js";
import { seededRandom } from "../pool/testing/seeded-random.js";
import { asFromBytes, handOver, takeHanded } from "./hand-over.js";

function ask(
  text: string,
  sampling: { temperature?: number; topP?: number } = {},
): GenerateRequest {
  return create(GenerateRequestSchema, {
    ...{ sessionId: "s", model: "m", turn: 3 },
    messages: [
      { role: Role.USER, text: "before" },
      { role: Role.USER, text },
    ],
    sampling: { ...sampling, seed: 7n, maxTokens: 12, stop: ["\n"] },
  });
}

function throughBytes(request: GenerateRequest): GenerateRequest {
  return fromBinary(GenerateRequestSchema, toBinary(GenerateRequestSchema, request));
}

describe("a request that is handed over", () => {
  it("is what comes out of its bytes", () => {
    const random = seededRandom(20_261_124);
    for (let round = 0; round < 200; round++) {
      const request = ask(`é🙂 ${random()}`, { temperature: 2 * random(), topP: random() });
      expect(asFromBytes(request)).toEqual(throughBytes(request));
    }
    expect(asFromBytes(ask("", {}))).toEqual(throughBytes(ask("", {})));
    const bare = create(GenerateRequestSchema, { sessionId: "s", messages: [{ text: "x" }] });
    expect(asFromBytes(bare)).toEqual(throughBytes(bare));
  });

  it("has all floats that sampling has", () => {
    const floats = GenerateRequestSchema.fields
      .find(({ name }) => name === "sampling")
      ?.message?.fields.filter(
        ({ fieldKind, scalar }) => fieldKind === "scalar" && scalar === ScalarType.FLOAT,
      );
    expect(floats?.map(({ localName }) => localName).sort()).toEqual(
      ["minP", "repetitionPenalty", "temperature", "topP"].sort(),
    );
    const sampling = { temperature: 0.7, topP: 0.9, minP: 0.1, repetitionPenalty: 1.1 };
    const request = ask("x", sampling);
    expect(asFromBytes(request)).toEqual(throughBytes(request));
    // And the one that was given stays as it was.
    expect(request.sampling?.temperature).toBe(0.7);
  });

  it("takes the bytes where UTF-8 changes a text", () => {
    expect(asFromBytes(ask("half a character: \ud83d"))).toBeUndefined();
  });

  it("is there once", () => {
    const call = {
      ...{ method: "Chat", tenant: "t", sessionId: "s", requestId: "r", idempotencyKey: "" },
    };
    const handed = { call, request: ask("x") };
    const [first, second] = [handOver(handed), handOver(handed)];
    expect(first).not.toBe(second);
    expect(takeHanded(first)).toBe(handed);
    expect(takeHanded(first)).toBeUndefined();
    expect(takeHanded(second)).toBe(handed);
    expect(takeHanded("none")).toBeUndefined();
  });

  it("is nothing to another isolate's object, where one of the same count waits", async () => {
    const call = {
      ...{ method: "Chat", tenant: "t", sessionId: "s", requestId: "r", idempotencyKey: "" },
    };
    vi.resetModules();
    const one = await import("./hand-over.js");
    vi.resetModules();
    const other = await import("./hand-over.js");
    const mine = { call, request: ask("mine") };
    const number = one.handOver(mine);
    expect(other.handOver({ call, request: ask("theirs") })).not.toBe(number);
    expect(other.takeHanded(number)).toBeUndefined();
    expect(one.takeHanded(number)).toBe(mine);
    // Who hears of it tries no more, and nobody else minds.
    expect(one.handsOver()).toBe(true);
    one.noteNotHanded();
    expect([one.handsOver(), other.handsOver()]).toEqual([false, true]);
  });
});
