/** What a turn keeps of the key that began it, for as long as it runs. It is stored as text beside the turn. */
import type { TurnLease } from "./limit-object.js";

/** See the head of this file. */
export interface TurnTicket {
  /** Id of the key. */
  readonly keyId: string;
  /** Its place among the turns of the key, and what it was expected to take; undefined without limits. */
  readonly lease: TurnLease | undefined;
  /** The key's limits; undefined: none. */
  readonly tokensPerMinute: number | undefined;
  readonly contextTokens: number | undefined;
  readonly outputTokens: number | undefined;
}

/** A ticket as text; empty for none. */
export function writeTicket(ticket: TurnTicket | undefined): string {
  return ticket === undefined ? "" : JSON.stringify(ticket);
}

/** Reads what writeTicket wrote. */
export function readTicket(text: string): TurnTicket | undefined {
  return text === "" ? undefined : (JSON.parse(text) as TurnTicket);
}
