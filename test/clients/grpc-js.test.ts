/** gRPC's own client for Node, through the HTTP/2 front. */
import {
  fromBinary,
  toBinary,
  create,
  type DescMessage,
  type MessageShape,
} from "@bufbuild/protobuf";
import { Client, Metadata, credentials, status, type ServiceError } from "@grpc/grpc-js";
import { afterAll, describe, expect, inject, it } from "vitest";
import {
  GenerateRequestSchema,
  GenerateResponseSchema,
  GetSessionRequestSchema,
  GetSessionResponseSchema,
  Role,
  type GenerateResponse,
} from "../../src/gen/leanedge/v1/session_pb.js";
import { answer, longStory, question } from "../support/conversation.js";

const client = new Client(inject("grpcAddress"), credentials.createInsecure());
const metadata = new Metadata();
metadata.set("authorization", `Bearer ${inject("gatewayKey")}`);

function serialize<T extends DescMessage>(schema: T) {
  return (message: MessageShape<T>): Buffer => Buffer.from(toBinary(schema, message));
}

function deserialize<T extends DescMessage>(schema: T) {
  return (bytes: Buffer): MessageShape<T> => fromBinary(schema, bytes);
}

function generate(sessionId: string, text: string, maxTokens: number) {
  return client.makeServerStreamRequest(
    "/leanedge.v1.SessionService/Generate",
    serialize(GenerateRequestSchema),
    deserialize(GenerateResponseSchema),
    create(GenerateRequestSchema, {
      sessionId,
      turn: 1,
      messages: [{ role: Role.USER, text }],
      sampling: { temperature: 0, maxTokens },
    }),
    metadata,
  );
}

function getSession(sessionId: string, withKey = true) {
  return new Promise<MessageShape<typeof GetSessionResponseSchema>>((resolve, reject) => {
    client.makeUnaryRequest(
      "/leanedge.v1.SessionService/GetSession",
      serialize(GetSessionRequestSchema),
      deserialize(GetSessionResponseSchema),
      create(GetSessionRequestSchema, { sessionId }),
      withKey ? metadata : new Metadata(),
      (error, response) => {
        if (error !== null) reject(error);
        else if (response !== undefined) resolve(response);
      },
    );
  });
}

afterAll(() => {
  client.close();
});

describe("@grpc/grpc-js", () => {
  it("streams an answer", async () => {
    let text = "";
    for await (const { event } of generate(
      `grpcjs-${Date.now()}`,
      question,
      40,
    ) as AsyncIterable<GenerateResponse>) {
      if (event.case === "delta") text += event.value.text;
    }
    expect(text.trim()).toMatch(answer);
  });

  it("gets the status codes of refusals", async () => {
    await expect(getSession("nobody")).rejects.toMatchObject({ code: status.NOT_FOUND });
    await expect(getSession("nobody", false)).rejects.toMatchObject({
      code: status.UNAUTHENTICATED,
    });
  });

  it("stops the turn when it cancels", async () => {
    const sessionId = `grpcjs-cancel-${Date.now()}`;
    const call = generate(sessionId, longStory, 2000);
    const ended = new Promise<ServiceError>((resolve) => {
      call.on("error", resolve);
    });
    await new Promise<void>((resolve) => {
      call.on("data", ({ event }: GenerateResponse) => {
        if (event.case === "delta") resolve();
      });
    });
    call.cancel();
    expect((await ended).code).toBe(status.CANCELLED);
    await expect.poll(async () => (await getSession(sessionId)).session?.runningTurn).toBe(0);
  });
});
