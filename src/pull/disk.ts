/** Room on the disk of the models folder. */
import { statfs } from "node:fs/promises";
import { PullError } from "./errors.js";
import type { PullLimits } from "./limits.js";

/** A check of the free room for a number of further bytes in `folder`. */
export function roomCheck(
  folder: string,
  limits: Pick<PullLimits, "diskSpareBytes">,
): (bytes: number) => Promise<void> {
  return async (bytes) => {
    const { bavail, bsize } = await statfs(folder);
    const freeBytes = bavail * bsize;
    if (freeBytes < bytes + limits.diskSpareBytes) {
      throw new PullError(
        "disk",
        `${folder} has ${freeBytes} bytes free; ${bytes} are to come, and ${limits.diskSpareBytes} must stay free`,
      );
    }
  };
}
