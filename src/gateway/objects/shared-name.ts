/**
 * Names of the objects that sessions share, where several sessions have one object (LEANEDGE_SESSION_OBJECTS). The name of a
 * session's own object has a slash in it: none of them is taken for the other.
 */
import { fnv1a } from "../pool/rendezvous.js";

/** Most objects that sessions share. */
export const sessionObjectsMax = 1_024;

/** Variable that says how many objects share the sessions of a gateway. */
export const sessionObjectsVariable = "LEANEDGE_SESSION_OBJECTS";

/** Name of the shared object of an index, which counts from 0. */
export function sharedName(index: number): string {
  return `shared:${index}`;
}

/** The index of the shared object of a name; undefined for the name of any other object. */
export function sharedIndex(name: string): number | undefined {
  const [, index] = /^shared:(0|[1-9]\d{0,3})$/.exec(name) ?? [];
  return index === undefined ? undefined : Number(index);
}

/** Index of the shared object, of `count`, that holds the session whose own object would have this name. */
export function sharedOf(name: string, count: number): number {
  return fnv1a(name) % count;
}

/**
 * Reads how many objects share the sessions, 0 to 1024; 0, where it is unset or empty too: each session has one of its own.
 * Throws where it says anything else.
 */
export function parseSessionObjects(text: string | undefined): number {
  if (text === undefined || text === "") {
    return 0;
  }
  const count = /^\d{1,4}$/.test(text) ? Number(text) : NaN;
  if (!(count <= sessionObjectsMax)) {
    throw new Error(
      `${sessionObjectsVariable} is "${text}"; it must be a whole number from 0 to ${sessionObjectsMax}`,
    );
  }
  return count;
}
