import { describe, expect, it } from "vitest";
import { Code, ConnectError, createContextValues } from "@connectrpc/connect";
import { ClientGoneError, callEnd, callProgressKey, onCallEnd, onClientGone } from "./call-end.js";
import type { CallEnd, CallProgress, EndingContext } from "./call-end.js";

interface TestCall {
  context: EndingContext;
  progress: CallProgress;
  abort: (reason?: unknown) => void;
  kept: Promise<unknown>[];
}

function startCall(handler: CallProgress["handler"] = "running"): TestCall {
  const controller = new AbortController();
  const kept: Promise<unknown>[] = [];
  const progress: CallProgress = {
    reached: true,
    requestId: "r",
    handler,
    lifetime: { waitUntil: (work) => void kept.push(work) },
  };
  return {
    context: {
      signal: controller.signal,
      values: createContextValues().set(callProgressKey, progress),
    },
    progress,
    abort: (reason) => controller.abort(reason),
    kept,
  };
}

describe("the end of a call", () => {
  const late = new ConnectError("the operation timed out", Code.DeadlineExceeded);
  const cases: [string, CallProgress["handler"], unknown, CallEnd][] = [
    ["returned", "success", undefined, "success"],
    ["returned, and its answer could not be written", "success", new RangeError("x"), "error"],
    ["threw", "error", new ConnectError("x", Code.NotFound), "error"],
    ["threw what a deadline further on threw", "error", late, "error"],
    ["threw without a reason", "error", undefined, "error"],
    ["ran out of time", "running", late, "deadline"],
    ["lost its client", "running", new ClientGoneError(), "client-gone"],
    [
      "lost its client while its answer was written",
      "success",
      new ClientGoneError(),
      "client-gone",
    ],
    ["never began, because its message was bad", "running", new ConnectError("x"), "error"],
  ];
  it.each(cases)("that %s", (_, handler, reason, end) => {
    const call = startCall(handler);
    expect(callEnd(call.context)).toBeUndefined();
    call.abort(reason);
    expect(callEnd(call.context)).toBe(end);
  });

  it("is told to each listener once, also to one that comes late", () => {
    const call = startCall();
    const heard: string[] = [];
    onCallEnd(call.context, (end) => void heard.push(`early ${end}`));
    call.progress.handler = "success";
    call.abort();
    call.abort();
    onCallEnd(call.context, (end) => void heard.push(`late ${end}`));
    expect(heard).toEqual(["early success", "late success"]);
  });

  it("is told to onClientGone only when the client left", () => {
    for (const [handler, reason, calls] of [
      ["running", new ClientGoneError(), 1],
      ["success", undefined, 0],
      ["error", new ConnectError("x"), 0],
      ["running", late, 0],
    ] as const) {
      const call = startCall(handler);
      let heard = 0;
      onClientGone(call.context, () => {
        heard++;
      });
      call.abort(reason);
      expect(heard).toBe(calls);
    }
  });

  it("keeps the promise of a listener alive", async () => {
    const call = startCall();
    let released = false;
    onClientGone(call.context, async () => {
      await Promise.resolve();
      released = true;
    });
    call.abort(new ClientGoneError());
    expect(call.kept).toHaveLength(1);
    await Promise.all(call.kept);
    expect(released).toBe(true);
  });
});

describe("ClientGoneError", () => {
  it("is a ConnectError with code CANCELED, and no other ConnectError is one", () => {
    const error: unknown = new ClientGoneError(new Error("socket closed"));
    expect(error).toBeInstanceOf(ConnectError);
    expect(error).toBeInstanceOf(ClientGoneError);
    expect(ConnectError.from(error).code).toBe(Code.Canceled);
    expect(new ConnectError("the client went away", Code.Canceled)).not.toBeInstanceOf(
      ClientGoneError,
    );
  });
});
