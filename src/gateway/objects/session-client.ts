/** Client of a SessionObject, for the services and routes of the Worker. */
import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import type { DescMessage, MessageShape } from "@bufbuild/protobuf";
import {
  CancelTurnRequestSchema,
  CancelTurnResponseSchema,
  CreateSessionRequestSchema,
  CreateSessionResponseSchema,
  DeleteSessionRequestSchema,
  DeleteSessionResponseSchema,
  ForkSessionRequestSchema,
  ForkSessionResponseSchema,
  GenerateRequestSchema,
  GenerateResponseSchema,
  GetSessionRequestSchema,
  GetSessionResponseSchema,
  ListMessagesRequestSchema,
  ListMessagesResponseSchema,
} from "../../gen/leanedge/v1/session_pb.js";
import type {
  CancelTurnRequest,
  CancelTurnResponse,
  CreateSessionRequest,
  CreateSessionResponse,
  DeleteSessionResponse,
  ForkSessionRequest,
  ForkSessionResponse,
  GenerateRequest,
  GenerateResponse,
  GetSessionResponse,
  ListMessagesRequest,
  ListMessagesResponse,
  TextDelta,
  TurnStarted,
} from "../../gen/leanedge/v1/session_pb.js";
import type { GatewayEnv } from "../bindings.js";
import { unavailable } from "../errors.js";
import type { CallerKey } from "../keys/caller.js";
import { objectRestartsMax, resumeHashBytes } from "../limits.js";
import { TextSha256 } from "../sha256.js";
import { noteCounted } from "../metrics/watch-answer.js";
import type { AnswerForm } from "./answer-format.js";
import {
  asFromBytes,
  handOver,
  handedHeader,
  handsOver,
  notHandedHeader,
  noteNotHanded,
  takeHanded,
} from "./hand-over.js";
import {
  callHeader,
  countedHeader,
  passHeader,
  sessionPlace,
  sharesObjects,
  writeSessionCall,
} from "./session-name.js";
import type { SessionCall } from "./session-name.js";
import { FrameReader, ObjectLostError, decodeJson, frameKind } from "./session-wire.js";
import type { Frame } from "./session-wire.js";
import { isOwn, objectNamed } from "../processes/objects.js";

/** The address of every call; it means nothing. */
const objectUrl = "http://session/";

/** How an object is called. */
type CallOptions = Pick<SessionCall, "again" | "form" | "timeoutMs"> & {
  readonly idempotencyKey?: string;
};

/** Who calls. */
export interface SessionCaller {
  readonly tenant: string;
  readonly requestId: string;
  /** Ends the call. */
  readonly signal: AbortSignal;
  /** The API key that the caller showed; undefined: no key and no limits. */
  readonly key?: CallerKey | undefined;
  /** Gets the headers of the object's answer, also of one that is an error; not of a chat's answer, whose head they are. */
  readonly onHead?: (head: Headers) => void;
}

/** A request in OpenAI form belongs to a fork of the session. */
export interface ChatRedirect {
  /** Last turn that both share. */
  readonly turn: number;
  /** Id of the fork. */
  readonly sessionId: string;
}

/** What a chat request leads to. */
export type ChatAnswer =
  | {
      readonly kind: "answer";
      /** Head and body are the client's, as they are. */
      readonly response: Response;
    }
  | { readonly kind: "redirect"; readonly redirect: ChatRedirect };

/** See the head of this file. One client a call. */
export class SessionClient {
  readonly #env: GatewayEnv;
  readonly #caller: SessionCaller;
  readonly #sessionId: string;

  /** Opens nothing yet. */
  constructor(env: GatewayEnv, caller: SessionCaller, sessionId: string) {
    this.#env = env;
    this.#caller = caller;
    this.#sessionId = sessionId;
  }

  /** SessionService.CreateSession. */
  createSession(request: CreateSessionRequest): Promise<CreateSessionResponse> {
    return this.#unary(
      "CreateSession",
      toBinary(CreateSessionRequestSchema, request),
      CreateSessionResponseSchema,
    );
  }

  /** SessionService.GetSession. */
  getSession(): Promise<GetSessionResponse> {
    const request = create(GetSessionRequestSchema, { sessionId: this.#sessionId });
    return this.#unary(
      "GetSession",
      toBinary(GetSessionRequestSchema, request),
      GetSessionResponseSchema,
    );
  }

  /** SessionService.ListMessages. */
  listMessages(request: ListMessagesRequest): Promise<ListMessagesResponse> {
    return this.#unary(
      "ListMessages",
      toBinary(ListMessagesRequestSchema, request),
      ListMessagesResponseSchema,
    );
  }

  /** SessionService.CancelTurn. */
  cancelTurn(request: CancelTurnRequest): Promise<CancelTurnResponse> {
    return this.#unary(
      "CancelTurn",
      toBinary(CancelTurnRequestSchema, request),
      CancelTurnResponseSchema,
    );
  }

  /** SessionService.ForkSession; the new id must be set. */
  forkSession(request: ForkSessionRequest): Promise<ForkSessionResponse> {
    return this.#unary(
      "ForkSession",
      toBinary(ForkSessionRequestSchema, request),
      ForkSessionResponseSchema,
    );
  }

  /** SessionService.DeleteSession. */
  deleteSession(): Promise<DeleteSessionResponse> {
    const request = create(DeleteSessionRequestSchema, { sessionId: this.#sessionId });
    return this.#unary(
      "DeleteSession",
      toBinary(DeleteSessionRequestSchema, request),
      DeleteSessionResponseSchema,
    );
  }

  /**
   * SessionService.Generate. A stream whose object restarts under it goes on by itself where it was: the turn is stored,
   * and its number is known from the first event.
   */
  async *generate(request: GenerateRequest): AsyncGenerator<GenerateResponse, void, undefined> {
    /** The turn that was begun, and the end of the answer that was given out. */
    let started: TurnStarted | undefined;
    let last: TextDelta | undefined;
    const hash = request.resumeOffset === 0n ? new TextSha256() : undefined;
    for (let restarts = 0; ; restarts++) {
      try {
        const next = restarts === 0 ? request : nextRequest(request, started, last, hash);
        const answer = await this.#turn("Generate", next, { again: restarts > 0 });
        this.#caller.onHead?.(answer.headers);
        for await (const frame of framesOf(answer)) {
          const response = fromBinary(GenerateResponseSchema, frame.payload);
          const { event } = response;
          if (event.case === "started") {
            started = event.value;
          } else if (event.case === "delta") {
            last = event.value;
            hash?.add(last.text);
          }
          yield response;
        }
        return;
      } catch (error) {
        const known = started !== undefined || request.turn > 0;
        if (!known || !this.#mayRestart(error, restarts)) {
          throw retryable(error);
        }
      }
    }
  }

  /**
   * SessionService.Generate, whose response the object writes for the client. A stream whose object restarts under it breaks off,
   * and the client joins the turn again.
   *
   * @param timeoutMs milliseconds until it ends with DEADLINE_EXCEEDED; undefined: as long as it takes
   */
  async pass(
    request: GenerateRequest,
    form: AnswerForm,
    timeoutMs: number | undefined,
  ): Promise<Response> {
    for (let restarts = 0; ; restarts++) {
      let counted = false;
      try {
        const how = { form, timeoutMs, again: restarts > 0 };
        const response = await this.#turn("Generate", request, how);
        this.#caller.onHead?.(response.headers);
        if (response.headers.has(passHeader)) {
          return response;
        }
        counted = response.headers.has(countedHeader);
        await framesOf(response).next();
        throw new ObjectLostError();
      } catch (error) {
        if (counted) {
          noteCounted(error);
        }
        // Nothing of the answer is known: only a turn that is named is not begun twice.
        if (request.turn === 0 || !this.#mayRestart(error, restarts)) {
          throw retryable(error);
        }
      }
    }
  }

  #mayRestart(error: unknown, restarts: number): boolean {
    return (
      error instanceof ObjectLostError &&
      restarts < objectRestartsMax &&
      !this.#caller.signal.aborted
    );
  }

  /** A request in OpenAI form: `request.messages` is the whole history. `form`: how its answer is written. */
  async chat(
    request: GenerateRequest,
    form: AnswerForm,
    idempotencyKey: string,
  ): Promise<ChatAnswer> {
    let counted = false;
    try {
      const response = await this.#turn("Chat", request, { form, idempotencyKey });
      if (response.headers.has(passHeader)) {
        return { kind: "answer", response };
      }
      this.#caller.onHead?.(response.headers);
      counted = response.headers.has(countedHeader);
      const first = await framesOf(response).next();
      if (first.done === true || first.value.kind !== frameKind.redirect) {
        throw new ObjectLostError();
      }
      return { kind: "redirect", redirect: redirectOf(first.value) };
    } catch (error) {
      if (counted) {
        noteCounted(error);
      }
      throw retryable(error);
    }
  }

  async #unary<Desc extends DescMessage>(
    method: string,
    body: Uint8Array,
    schema: Desc,
  ): Promise<MessageShape<Desc>> {
    try {
      let message: MessageShape<Desc> | undefined;
      const response = await this.#fetch(method, body);
      this.#caller.onHead?.(response.headers);
      for await (const frame of framesOf(response)) {
        message = fromBinary(schema, frame.payload);
      }
      if (message === undefined) {
        throw new ObjectLostError();
      }
      return message;
    } catch (error) {
      throw retryable(error);
    }
  }

  /** Calls the object for a turn: in memory where it can, as bytes otherwise. */
  async #turn(method: string, request: GenerateRequest, how: CallOptions): Promise<Response> {
    const place = this.#place();
    const near = sharesObjects(this.#env) && handsOver() && isOwn(this.#env, "SESSION", place);
    const handed = near ? asFromBytes(request) : undefined;
    if (handed !== undefined) {
      const { form = "frames", again = false, ...rest } = this.#call(method, how);
      const number = handOver({ call: { ...rest, form, again }, request: handed });
      try {
        const response = await this.#send(place, { headers: { [handedHeader]: number } });
        if (!response.headers.has(notHandedHeader)) {
          return response;
        }
        noteNotHanded();
      } finally {
        takeHanded(number);
      }
    }
    return this.#fetch(method, toBinary(GenerateRequestSchema, request), how);
  }

  /** Calls the object. */
  #fetch(method: string, body: Uint8Array, how: CallOptions = {}): Promise<Response> {
    return this.#send(this.#place(), {
      headers: { [callHeader]: writeSessionCall(this.#call(method, how)) },
      body: new Uint8Array(body),
    });
  }

  #place(): string {
    return sessionPlace(this.#env, this.#caller.tenant, this.#sessionId);
  }

  #call(method: string, { idempotencyKey = "", ...how }: CallOptions): SessionCall {
    const { tenant, requestId, key } = this.#caller;
    return { method, tenant, sessionId: this.#sessionId, requestId, idempotencyKey, key, ...how };
  }

  async #send(place: string, init: RequestInit): Promise<Response> {
    const { signal } = this.#caller;
    try {
      const stub = objectNamed(this.#env, "SESSION", place);
      return await stub.fetch(objectUrl, { method: "POST", ...init, signal });
    } catch (cause) {
      signal.throwIfAborted();
      throw new ObjectLostError(cause);
    }
  }
}

/** The frames of a response. */
function framesOf({ body }: Response): FrameReader {
  if (body === null) {
    throw new ObjectLostError();
  }
  return new FrameReader(body as ReadableStream<Uint8Array>);
}

/** What a caller sees of an error: a lost object is UNAVAILABLE. */
function retryable(error: unknown): unknown {
  return error instanceof ObjectLostError
    ? unavailable("the session's object restarted; the call may be retried")
    : error;
}

/** The request that goes on where an answer broke off. `hash`: of all its text; undefined where its start is not known. */
function nextRequest(
  request: GenerateRequest,
  started: TurnStarted | undefined,
  last: TextDelta | undefined,
  hash: TextSha256 | undefined,
): GenerateRequest {
  return create(GenerateRequestSchema, {
    ...request,
    ...(started === undefined ? {} : { turn: started.turn }),
    ...(last === undefined
      ? {}
      : {
          resumeOffset: last.offset + BigInt(new TextEncoder().encode(last.text).byteLength),
          resumeHash: hash?.value.subarray(0, resumeHashBytes) ?? new Uint8Array(0),
        }),
  });
}

function redirectOf(frame: Frame): ChatRedirect {
  const value = decodeJson(frame.payload);
  if (
    typeof value === "object" &&
    value !== null &&
    "turn" in value &&
    "sessionId" in value &&
    typeof value.turn === "number" &&
    typeof value.sessionId === "string"
  ) {
    return { turn: value.turn, sessionId: value.sessionId };
  }
  throw new Error("a redirect without turn and session");
}
