/** Where the package's own files lie, whatever folder the command was started in. */
import { fileURLToPath } from "node:url";

/** Absolute path of a file of this package. */
export function packagePath(relative: string): string {
  return fileURLToPath(new URL(`../../${relative}`, import.meta.url));
}
