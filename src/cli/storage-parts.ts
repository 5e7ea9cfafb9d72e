/** Where the processes of a gateway keep their objects: workerd makes folders `leanedge-CLASS` there. */
import { readdir } from "node:fs/promises";
import { join } from "node:path";

/** The folder in which one of `count` processes keeps its objects: all of it for the only one. */
export function storageOf(storage: string, index: number, count: number): string {
  return count === 1 ? storage : join(storage, `${index}-of-${count}`);
}

/** A folder in which a process of `count` keeps its objects. */
export interface StoragePart {
  readonly count: number;
  readonly path: string;
}

/** Those that are there; of one number of processes, unless a move from one to another was interrupted. */
export async function storageParts(storage: string): Promise<StoragePart[]> {
  const parts: StoragePart[] = [];
  for (const entry of await readdir(storage)) {
    const [, count] = /^\d+-of-(\d+)$/.exec(entry) ?? [];
    if (count !== undefined) {
      parts.push({ count: Number(count), path: join(storage, entry) });
    } else if (entry.startsWith("leanedge-") && parts.every(({ path }) => path !== storage)) {
      parts.push({ count: 1, path: storage });
    }
  }
  return parts;
}
