import { create, toBinary } from "@bufbuild/protobuf";
import { fileDesc, serviceDesc } from "@bufbuild/protobuf/codegenv2";
import type { GenService } from "@bufbuild/protobuf/codegenv2";
import { base64Encode } from "@bufbuild/protobuf/wire";
import {
  FileDescriptorProtoSchema,
  MethodOptions_IdempotencyLevel,
  file_google_protobuf_wrappers,
} from "@bufbuild/protobuf/wkt";
import type { StringValueSchema, UInt32ValueSchema } from "@bufbuild/protobuf/wkt";

/**
 * A service for tests of the adapter and of the gRPC front, with one method of each kind. It is described here and not in `proto/`, because it
 * is no part of the API.
 *
 * - `Say` answers with its text; it has no side effects, so Connect GET reaches it.
 * - `Count` streams 1..n.
 * - `Join` concatenates what it is sent.
 * - `Chat` echoes each message.
 */
export const EchoService: GenService<{
  say: {
    methodKind: "unary";
    input: typeof StringValueSchema;
    output: typeof StringValueSchema;
  };
  count: {
    methodKind: "server_streaming";
    input: typeof UInt32ValueSchema;
    output: typeof UInt32ValueSchema;
  };
  join: {
    methodKind: "client_streaming";
    input: typeof StringValueSchema;
    output: typeof StringValueSchema;
  };
  chat: {
    methodKind: "bidi_streaming";
    input: typeof StringValueSchema;
    output: typeof StringValueSchema;
  };
}> = serviceDesc(fileDesc(describe(), [file_google_protobuf_wrappers]), 0);

function describe(): string {
  const text = ".google.protobuf.StringValue";
  const number = ".google.protobuf.UInt32Value";
  const file = create(FileDescriptorProtoSchema, {
    name: "leanedge/test/v1/echo.proto",
    package: "leanedge.test.v1",
    syntax: "proto3",
    dependency: ["google/protobuf/wrappers.proto"],
    service: [
      {
        name: "EchoService",
        method: [
          {
            name: "Say",
            inputType: text,
            outputType: text,
            options: { idempotencyLevel: MethodOptions_IdempotencyLevel.NO_SIDE_EFFECTS },
          },
          { name: "Count", inputType: number, outputType: number, serverStreaming: true },
          { name: "Join", inputType: text, outputType: text, clientStreaming: true },
          {
            name: "Chat",
            inputType: text,
            outputType: text,
            clientStreaming: true,
            serverStreaming: true,
          },
        ],
      },
    ],
  });
  return base64Encode(toBinary(FileDescriptorProtoSchema, file), "std_raw");
}
