import { Code, ConnectError } from "@connectrpc/connect";
import { Hono } from "hono";
import { createCallKey, getCall } from "../call.js";
import { onCallEnd } from "../call-end.js";
import type { CallEnd } from "../call-end.js";
import { mountConnect } from "../mount-connect.js";
import type { MountOptions } from "../mount-connect.js";
import { EchoService } from "../../../../test/support/echo-service.js";

/** Bindings of the echo app. */
export interface EchoBindings {
  /** Prefix of what `Say` answers, to show that bindings arrive. */
  GREETING: string;
}

/** The Hono environment of the echo app. */
export interface EchoEnv {
  /** What the runtime passes to each request. */
  Bindings: EchoBindings;
}

/** The echo app and what its calls left behind. */
export interface EchoApp {
  /** The app to send requests to. */
  app: Hono<EchoEnv>;
  /** How each finished call ended, in order. */
  ends: CallEnd[];
  /** Errors that were not ConnectErrors. */
  unexpected: unknown[];
  /** Numbers that `Count` has yielded, over all calls. */
  counted: () => number;
}

/** Pause between two numbers of `Count`, in milliseconds: long enough for a test to leave in the middle. */
export const countPauseMs = 10;

/** How long `Say` waits when it is told to, in milliseconds. */
const waitMsMax = 20_000;

/**
 * Builds an app with `EchoService`.
 *
 * `Say` reacts to its text: "fail" throws a ConnectError, "crash" throws a plain error, "wait" returns only when the call
 * is over, "stuck" never returns and ignores its signal, "big" answers with 64 KiB.
 */
export function createEchoApp(options: Partial<MountOptions<EchoEnv>> = {}): EchoApp {
  const call = createCallKey<EchoBindings>();
  const app = new Hono<EchoEnv>();
  const ends: CallEnd[] = [];
  const unexpected: unknown[] = [];
  let counted = 0;
  mountConnect(
    app,
    (router) =>
      router.service(EchoService, {
        async say(request, context) {
          onCallEnd(context, (end) => void ends.push(end));
          context.responseHeader.set("x-echo-request", getCall(context, call).requestId);
          context.responseTrailer.set("x-echo-tenant", getCall(context, call).tenant ?? "nobody");
          await act(request.value, context.signal);
          if (request.value === "big") {
            return { value: "x".repeat(64 * 1024) };
          }
          return { value: getCall(context, call).env.GREETING + request.value };
        },
        async *count(request, context) {
          onCallEnd(context, (end) => void ends.push(end));
          for (let value = 1; value <= request.value; value++) {
            if (value > 1) {
              await new Promise((resolve) => setTimeout(resolve, countPauseMs));
            }
            counted++;
            yield { value };
          }
        },
        async join(requests, context) {
          onCallEnd(context, (end) => void ends.push(end));
          let value = "";
          for await (const request of requests) {
            value += request.value;
          }
          return { value };
        },
        async *chat(requests, context) {
          onCallEnd(context, (end) => void ends.push(end));
          for await (const request of requests) {
            yield { value: request.value };
          }
        },
      }),
    { call, onUnexpectedError: (error) => void unexpected.push(error), ...options },
  );
  return { app, ends, unexpected, counted: () => counted };
}

async function act(text: string, signal: AbortSignal): Promise<void> {
  switch (text) {
    case "fail":
      throw new ConnectError("told to fail", Code.FailedPrecondition);
    case "crash":
      throw new TypeError("told to crash");
    case "wait":
      return new Promise((resolve, reject) => {
        // workerd ends a call that waits for nothing but its own signal: it takes it for hung.
        const timer = setTimeout(resolve, waitMsMax);
        function stop(): void {
          clearTimeout(timer);
          reject(new Error("stopped"));
        }
        signal.addEventListener("abort", stop, { once: true });
      });
    case "stuck":
      return new Promise(() => undefined);
    default:
      return undefined;
  }
}
