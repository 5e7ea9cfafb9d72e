/** How one gateway process names an object to another one. */

/** Bindings of Durable Objects. */
export type ObjectKind = "SESSION" | "TENANT" | "KEYRING" | "LIMIT" | "POOL" | "METRICS" | "ENGINE";

/** A binding, and an object of it by its name or the id which that gave it. */
export type ObjectAddress = { readonly kind: ObjectKind } & (
  { readonly name: string } | { readonly id: string }
);

/** Header of a request to an object of another process. */
export const objectHeader = "x-leanedge-object";

/** An address as a header's value. */
export function writeObjectAddress(address: ObjectAddress): string {
  return "name" in address
    ? `${address.kind} name ${encodeURIComponent(address.name)}`
    : `${address.kind} id ${address.id}`;
}

/** Reads what writeObjectAddress wrote. */
export function readObjectAddress(text: string): ObjectAddress {
  const [kind = "", form, value] = text.split(" ");
  if (!isKind(kind) || (form !== "name" && form !== "id") || value === undefined) {
    throw new Error(`"${text}" is no address of an object`);
  }
  return form === "name" ? { kind, name: decodeURIComponent(value) } : { kind, id: value };
}

const kinds: Readonly<Record<ObjectKind, true>> = {
  ...{ SESSION: true, TENANT: true, KEYRING: true, LIMIT: true },
  ...{ POOL: true, METRICS: true, ENGINE: true },
};

function isKind(text: string): text is ObjectKind {
  return Object.hasOwn(kinds, text);
}
