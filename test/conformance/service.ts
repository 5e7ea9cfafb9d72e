import {
  create,
  createFileRegistry,
  createRegistry,
  fromBinary,
  toBinary,
} from "@bufbuild/protobuf";
import type { DescMessage, DescService, Message, Registry } from "@bufbuild/protobuf";
import { FileDescriptorSetSchema, anyPack } from "@bufbuild/protobuf/wkt";
import { ConnectError } from "@connectrpc/connect";
import type { ConnectRouter, HandlerContext, ServiceImpl } from "@connectrpc/connect";
import type {
  Answer,
  ErrorDefinition,
  HeaderField,
  RequestInfo,
  StreamMessage,
  UnaryMessage,
} from "./messages.js";

const packageName = "connectrpc.conformance.v1";

/** The conformance service, ready to be mounted. */
export interface ConformanceService {
  /** Knows the messages that `Any` fields carry in JSON. */
  registry: Registry;
  /** Registers the implementation. */
  routes: (router: ConnectRouter) => void;
}

/** Builds the service from the descriptors that come with the runner (a serialised FileDescriptorSet). */
export function createConformanceService(descriptors: Uint8Array): ConformanceService {
  const files = createFileRegistry(fromBinary(FileDescriptorSetSchema, descriptors));
  const service = files.getService(`${packageName}.ConformanceService`);
  const requestInfo = files.getMessage(`${packageName}.ConformancePayload.RequestInfo`);
  if (service === undefined || requestInfo === undefined) {
    throw new Error(`the descriptors lack ${packageName}.ConformanceService`);
  }
  const types: Types = { service, requestInfo };
  return {
    registry: createRegistry(...files),
    routes: (router) => {
      // Descriptors that are loaded at run time have no types of their own: the methods' names are checked by the runner.
      const methods: Record<string, unknown> = {
        unary: (request: Message, context: HandlerContext) => unary(types, request, context),
        idempotentUnary: (request: Message, context: HandlerContext) =>
          unary(types, request, context),
        clientStream: (requests: AsyncIterable<Message>, context: HandlerContext) =>
          clientStream(types, requests, context),
        serverStream: (request: Message, context: HandlerContext) =>
          serverStream(types, request, context),
        bidiStream: (requests: AsyncIterable<Message>, context: HandlerContext) =>
          bidiStream(types, requests, context),
      };
      router.service(service, methods as Partial<ServiceImpl<DescService>>);
    },
  };
}

interface Types {
  service: DescService;
  requestInfo: DescMessage;
}

async function unary(types: Types, request: Message, context: HandlerContext): Promise<Answer> {
  return answerOnce(types, request, [request], context);
}

async function clientStream(
  types: Types,
  requests: AsyncIterable<Message>,
  context: HandlerContext,
): Promise<Answer> {
  const seen: Message[] = [];
  for await (const request of requests) {
    seen.push(request);
  }
  return answerOnce(types, seen[0], seen, context);
}

async function answerOnce(
  types: Types,
  first: UnaryMessage | undefined,
  seen: readonly Message[],
  context: HandlerContext,
): Promise<Answer> {
  const definition = first?.responseDefinition;
  const requestInfo = observe(types, seen, context);
  if (definition === undefined) {
    return { payload: { requestInfo } };
  }
  setFields(context.responseHeader, definition.responseHeaders);
  setFields(context.responseTrailer, definition.responseTrailers);
  await pause(definition.responseDelayMs, context.signal);
  switch (definition.response.case) {
    case "error":
      throw errorOf(types, definition.response.value, requestInfo);
    case "responseData":
      return { payload: { data: definition.response.value, requestInfo } };
    case undefined:
      return { payload: { requestInfo } };
  }
}

async function* serverStream(
  types: Types,
  request: Message,
  context: HandlerContext,
): AsyncGenerator<Answer> {
  const definition = (request as StreamMessage).responseDefinition;
  if (definition === undefined) {
    return;
  }
  setFields(context.responseHeader, definition.responseHeaders);
  setFields(context.responseTrailer, definition.responseTrailers);
  let requestInfo: RequestInfo | undefined = observe(types, [request], context);
  for (const data of definition.responseData) {
    await pause(definition.responseDelayMs, context.signal);
    yield answer(data, requestInfo);
    requestInfo = undefined;
  }
  if (definition.error !== undefined) {
    throw errorOf(types, definition.error, requestInfo);
  }
}

async function* bidiStream(
  types: Types,
  requests: AsyncIterable<Message>,
  context: HandlerContext,
): AsyncGenerator<Answer> {
  const seen: Message[] = [];
  let first: StreamMessage | undefined;
  let sent = 0;
  for await (const request of requests) {
    seen.push(request);
    if (first === undefined) {
      first = request;
      setFields(context.responseHeader, first.responseDefinition?.responseHeaders ?? []);
      setFields(context.responseTrailer, first.responseDefinition?.responseTrailers ?? []);
    }
    const data = first.responseDefinition?.responseData[sent];
    if (first.fullDuplex === true) {
      if (data === undefined) {
        break;
      }
      await pause(first.responseDefinition?.responseDelayMs ?? 0, context.signal);
      yield answer(data, duplexInfo(types, sent, request, context));
      sent++;
    }
  }
  const definition = first?.responseDefinition;
  if (definition === undefined) {
    return;
  }
  for (const data of definition.responseData.slice(sent)) {
    await pause(definition.responseDelayMs, context.signal);
    yield answer(data, sent === 0 ? observe(types, seen, context) : undefined);
    sent++;
  }
  if (definition.error !== undefined) {
    throw errorOf(types, definition.error, sent === 0 ? observe(types, seen, context) : undefined);
  }
}

/** Full duplex: the first answer echoes everything, later ones only the message that they answer. */
function duplexInfo(
  types: Types,
  sent: number,
  request: Message,
  context: HandlerContext,
): RequestInfo {
  const info = observe(types, [request], context);
  return sent === 0 ? info : { requestHeaders: [], requests: info.requests };
}

function answer(data: Uint8Array, requestInfo: RequestInfo | undefined): Answer {
  return { payload: requestInfo === undefined ? { data } : { data, requestInfo } };
}

function observe(types: Types, seen: readonly Message[], context: HandlerContext): RequestInfo {
  const timeoutMs = context.timeoutMs();
  const info: RequestInfo = {
    requestHeaders: fieldsOf(context.requestHeader),
    requests: seen.map((message) => anyPack(descriptorOf(types, message), message)),
  };
  if (timeoutMs !== undefined) {
    info.timeoutMs = BigInt(Math.round(timeoutMs));
  }
  if (context.requestMethod === "GET") {
    info.connectGetInfo = { queryParams: fieldsOf(new URL(context.url).searchParams) };
  }
  return info;
}

function descriptorOf(types: Types, message: Message): DescMessage {
  const method = types.service.methods.find((m) => m.input.typeName === message.$typeName);
  if (method === undefined) {
    throw new Error(`no method takes ${message.$typeName}`);
  }
  return method.input;
}

function errorOf(
  types: Types,
  definition: ErrorDefinition,
  requestInfo: RequestInfo | undefined,
): ConnectError {
  const error = new ConnectError(definition.message ?? "", definition.code);
  error.details = definition.details.map((any) => ({
    type: any.typeUrl.slice(any.typeUrl.lastIndexOf("/") + 1),
    value: any.value,
  }));
  if (requestInfo !== undefined) {
    const value = create(types.requestInfo, { ...requestInfo });
    error.details.push({
      type: types.requestInfo.typeName,
      value: toBinary(types.requestInfo, value),
    });
  }
  return error;
}

function fieldsOf(entries: Headers | URLSearchParams): HeaderField[] {
  const fields: HeaderField[] = [];
  entries.forEach((value, name) => fields.push({ name, value: [value] }));
  return fields;
}

function setFields(target: Headers, fields: readonly HeaderField[]): void {
  for (const { name, value } of fields) {
    for (const one of value) {
      target.append(name, one);
    }
  }
}

async function pause(ms: number, signal: AbortSignal): Promise<void> {
  if (ms > 0) {
    await new Promise((resolve) => setTimeout(resolve, ms));
  }
  signal.throwIfAborted();
}
