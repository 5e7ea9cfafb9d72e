/**
 * Runs in the browser: the official grpc-web client, with messages of our generated code. It leaves
 * its results on `window` for the test to read.
 */
import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import { GrpcWebClientBase, MethodDescriptor, MethodType, type RpcError } from "grpc-web";
import {
  GenerateRequestSchema,
  GenerateResponseSchema,
  Role,
  type GenerateRequest,
  type GenerateResponse,
} from "../../../src/gen/leanedge/v1/session_pb.js";

/** What a run gives back. */
export interface GrpcWebRun {
  readonly text: string;
  readonly kinds: (string | undefined)[];
  /** Milliseconds between the first and the last piece of text. */
  readonly spreadMs: number;
  readonly error: { code: number; message: string } | undefined;
}

declare global {
  interface Window {
    runGrpcWeb(format: string, key: string, sessionId: string, text: string): Promise<GrpcWebRun>;
  }
}

const generate = new MethodDescriptor<GenerateRequest, GenerateResponse>(
  "/leanedge.v1.SessionService/Generate",
  MethodType.SERVER_STREAMING,
  Object as never,
  Object as never,
  (request: GenerateRequest) => toBinary(GenerateRequestSchema, request),
  (bytes: Uint8Array) => fromBinary(GenerateResponseSchema, bytes),
);

window.runGrpcWeb = (format, key, sessionId, text) =>
  new Promise((resolve) => {
    const client = new GrpcWebClientBase({ format });
    const kinds: (string | undefined)[] = [];
    let got = "";
    let firstMs = 0;
    let lastMs = 0;
    let error: RpcError | undefined;
    const stream = client.serverStreaming(
      `${location.origin}/leanedge.v1.SessionService/Generate`,
      create(GenerateRequestSchema, {
        sessionId,
        messages: [{ role: Role.USER, text }],
        sampling: { temperature: 0, maxTokens: 40 },
      }),
      { authorization: `Bearer ${key}` },
      generate,
    );
    stream.on("data", ({ event }) => {
      kinds.push(event.case);
      if (event.case !== "delta") return;
      lastMs = performance.now();
      if (got === "") firstMs = lastMs;
      got += event.value.text;
    });
    const end = (): void => {
      resolve({
        text: got,
        kinds,
        spreadMs: lastMs - firstMs,
        error: error === undefined ? undefined : { code: error.code, message: error.message },
      });
    };
    stream.on("error", (failure) => {
      error = failure;
      end();
    });
    stream.on("end", end);
  });
