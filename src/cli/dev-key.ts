/**
 * The development key: made at the first start, kept in the state folder, readable by its owner
 * only. It opens tenant `dev` of this gateway and nothing else.
 */
import { randomBytes } from "node:crypto";
import { mkdir, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { isSystemError } from "../system-error.js";

const keyPattern = /^le-dev-[A-Za-z0-9_-]{43}$/;

/** The key of a state folder, made if there is none. */
export async function developmentKey(stateFolder: string): Promise<string> {
  const path = join(stateFolder, "dev-key");
  try {
    const key = (await readFile(path, "utf8")).trim();
    if (keyPattern.test(key)) return key;
    throw new Error(`${path} does not hold a development key; delete it to get a new one`);
  } catch (error) {
    if (!isSystemError(error, "ENOENT")) throw error;
  }
  // 256 bits of noise: nothing to guess, so its hash needs no salt and no slow function.
  const key = `le-dev-${randomBytes(32).toString("base64url")}`;
  await mkdir(stateFolder, { recursive: true });
  await writeFile(path, `${key}\n`, { mode: 0o600 });
  return key;
}
