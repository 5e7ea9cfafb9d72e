/** Debian's Chromium, headless, without the connections that it would make of itself. */
import { chromium, type Browser } from "playwright-core";
import { chromiumPath } from "./requirement.js";

/** Starts a browser; the caller closes it. */
export function startBrowser(): Promise<Browser> {
  return chromium.launch({
    executablePath: chromiumPath,
    args: [
      "--no-sandbox",
      "--disable-gpu",
      "--disable-quic",
      "--no-first-run",
      "--disable-background-networking",
      "--disable-component-update",
      "--disable-sync",
    ],
  });
}
