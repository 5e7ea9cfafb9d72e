/** The official grpc-web client where it lives: in a browser, binary and text. */
import { build } from "esbuild";
import type { Browser, Page } from "playwright-core";
import { afterAll, beforeAll, describe, expect, inject, it } from "vitest";
import { startBrowser } from "../support/browser.js";
import { answer, question } from "../support/conversation.js";
import { needsChromium } from "../support/requirement.js";

describe.skipIf(needsChromium.missing)(`grpc-web in Chromium${needsChromium.note}`, () => {
  let browser: Browser;
  let page: Page;

  beforeAll(async () => {
    const { outputFiles } = await build({
      entryPoints: [`${import.meta.dirname}/browser/grpc-web-client.ts`],
      bundle: true,
      write: false,
      format: "iife",
      platform: "browser",
    });
    browser = await startBrowser();
    page = await browser.newPage();
    await page.goto(inject("gatewayUrl"));
    // Not by a script element: the page's content security policy allows only its own files.
    await page.evaluate(outputFiles[0]?.text ?? "");
  });

  afterAll(async () => {
    await browser.close();
  });

  // Format "text" is application/grpc-web-text, the only one of the two that this client streams.
  it.each(["text", "binary"])("streams an answer in format %s", async (format) => {
    const args = [format, inject("gatewayKey"), `web-${format}-${Date.now()}`, question] as const;
    const run = await page.evaluate((a) => window.runGrpcWeb(...a), args);
    expect(run.error).toBeUndefined();
    expect(run.text.trim()).toMatch(answer);
    expect(run.kinds[0]).toBe("started");
    expect(run.kinds.at(-1)).toBe("finished");
    if (format === "text") expect(run.spreadMs).toBeGreaterThan(10);
  });

  it.each(["text", "binary"])(
    "gets status and message of a refusal in format %s",
    async (format) => {
      const args = [format, "wrong key", "s", question] as const;
      const run = await page.evaluate((a) => window.runGrpcWeb(...a), args);
      expect(run.error?.code).toBe(16);
      expect(run.error?.message).not.toBe("");
    },
  );
});
