/** The browser of the wllama variant: Debian's, which no package installs for us. */
import { existsSync } from "node:fs";

/** Where Debian's package puts it; `LEANEDGE_CHROMIUM` names another. */
export const chromiumPath = process.env["LEANEDGE_CHROMIUM"] ?? "/usr/bin/chromium";

/** False where no browser is installed. */
export const chromiumInstalled = existsSync(chromiumPath);

/** Headless, without the look-ups that a browser makes at its start. */
export const chromiumArguments: string[] = [
  "--no-sandbox",
  "--disable-gpu",
  "--disable-quic",
  "--no-first-run",
  "--disable-background-networking",
  "--disable-component-update",
  "--disable-sync",
];
