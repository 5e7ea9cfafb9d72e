/** Ids of Durable Objects, as workerd derives them from names: an object's database in a storage has its id as its name. */
import { createHash, createHmac } from "node:crypto";

/** Bytes of each half of an id. */
const halfBytes = 16;

/**
 * The id of the object of a name, 64 hexadecimal digits: a keyed hash of the name, and behind it one of that, by which the runtime
 * knows ids of its own.
 *
 * @param classKey unique key of the object's class (workerd-config.ts)
 */
export function objectId(classKey: string, name: string): string {
  const key = createHash("sha256").update(classKey).digest();
  const half = (data: string | Buffer): Buffer =>
    createHmac("sha256", key).update(data).digest().subarray(0, halfBytes);
  const first = half(name);
  return Buffer.concat([first, half(first)]).toString("hex");
}
