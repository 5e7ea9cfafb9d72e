/** The page served at `/`, as a person uses it. */
import { mkdir } from "node:fs/promises";
import { resolve } from "node:path";
import type { Browser, Page } from "playwright-core";
import { afterAll, beforeAll, describe, expect, inject, it } from "vitest";
import { embedded } from "../../src/embedded-model.js";
import { cacheBytes, planCost } from "../../src/engine/plan/cost.js";
import { archivePages } from "../../src/engine/plan/plan.js";
import { startBrowser } from "../support/browser.js";
import { answer, followUp, longStory, question } from "../support/conversation.js";
import { embeddedConfig, embeddedPlan } from "../support/embedded-facts.js";
import { needsChromium } from "../support/requirement.js";

const url = inject("gatewayUrl");
/** Until the page shows what the gateway knows, on a busy machine. */
const pageMsMax = 30_000;
const screenshots = resolve(import.meta.dirname, "../../build/screenshots");

const plan = embeddedPlan();
const cost = planCost(plan);
const { contextTokensMax: window } = await embeddedConfig();

function inThousands(count: number): string {
  return count.toLocaleString("en");
}

function inMebibytes(bytes: number): string {
  return `${(bytes / 2 ** 20).toFixed(2)} MiB`;
}

describe.skipIf(needsChromium.missing)(`the page in Chromium${needsChromium.note}`, () => {
  let browser: Browser;
  let page: Page;
  const errors: string[] = [];

  async function openPage(width = 1100, height = 720): Promise<void> {
    const context = await browser.newContext({ viewport: { width, height } });
    page = await context.newPage();
    page.on("pageerror", (error) => errors.push(error.message));
    await page.goto(`${url}/#key=${inject("gatewayKey")}`);
  }

  async function say(text: string): Promise<void> {
    await page.getByLabel("Message", { exact: true }).fill(text);
    await page.keyboard.press("Enter");
  }

  /** Resolves once the page shows an answer that runs and the button that stops it, for however short a time. */
  function showsRunning(): Promise<void> {
    return page.evaluate(
      () =>
        new Promise<void>((resolve) => {
          const observer = new MutationObserver(() => {
            const stop = document.querySelector("#stop:not([hidden])");
            if (stop === null || document.querySelector(".assistant.running") === null) return;
            observer.disconnect();
            resolve();
          });
          observer.observe(document.body, { subtree: true, childList: true, attributes: true });
        }),
    );
  }

  function answers(): Promise<string[]> {
    return page.locator("#messages .assistant:not(.running)").allInnerTexts();
  }

  beforeAll(async () => {
    await mkdir(screenshots, { recursive: true });
    browser = await startBrowser();
  });

  afterAll(async () => {
    await browser.close();
  });

  it("streams an answer, shows its figures, and takes the key out of the address", async () => {
    await openPage();
    const shown = showsRunning();
    await say(question);
    await shown;
    await expect.poll(answers, { timeout: 60_000 }).toHaveLength(1);
    expect((await answers())[0]).toMatch(answer);
    await say(followUp);
    await expect.poll(answers, { timeout: 60_000 }).toHaveLength(2);
    expect(page.url()).not.toContain("key=");
    const live = page.getByLabel("Figures of this chat");
    await expect.poll(() => live.innerText()).toContain(`${embedded.model} on WASM`);
    await expect.poll(() => live.innerText()).toMatch(/\d+\.\d\s+tokens\/s/);
    await expect
      .poll(async () => Number(await page.locator("#live-cached").innerText()))
      .toBeGreaterThan(20);
    await expect
      .poll(() => page.locator("#live-cache-bytes").innerText(), { timeout: pageMsMax })
      .toMatch(/^\d\.\d\d MiB$/);
    expect(await page.locator("#live-plan").innerText()).toBe(embedded.plan);
    await page.screenshot({ path: `${screenshots}/answer.png` });
    await page.getByText("Memory of this chat").click();
    expect(await page.locator("#memory-token").innerText()).toBe(
      `${inThousands(cost.archiveBytesPerToken)} bytes`,
    );
    expect(await page.locator("#memory-start").innerText()).toBe(inMebibytes(cost.zoneBytes));
    expect(await page.locator("#memory-now").innerText()).toMatch(/^1\.\d\d MiB, \d+ pages?$/);
    expect(await page.locator("#memory-longest").innerText()).toBe(
      `${inMebibytes(cacheBytes(plan, window))}, ${archivePages(window, plan.sink, plan.recent)} pages`,
    );
    expect(await page.locator("#memory-context").innerText()).toBe(`${inThousands(window)} tokens`);
    await page.screenshot({ path: `${screenshots}/memory.png` });
  });

  it("keeps the conversation over a reload, and lists it", async () => {
    await page.reload();
    await expect.poll(answers, { timeout: pageMsMax }).toHaveLength(2);
    expect(await page.locator("#messages .user").first().innerText()).toContain(question);
    await expect.poll(() => page.locator("#session-list .open[aria-current=true]").count()).toBe(1);
    await page.screenshot({ path: `${screenshots}/reload.png` });
  });

  it("stops the answer with the stop button, and keeps the text so far", async () => {
    await page.getByRole("button", { name: "New chat", exact: true }).first().click();
    await say(longStory);
    await expect
      .poll(() => page.locator("#messages .assistant").innerText(), { timeout: 60_000 })
      .toMatch(/\w+ \w+/);
    await page.getByRole("button", { name: "Stop" }).click();
    await expect.poll(answers).toHaveLength(1);
    expect((await answers())[0]).toMatch(/stopped$/);
    const text = (await answers())[0];
    await page.reload();
    await expect.poll(answers, { timeout: pageMsMax }).toHaveLength(1);
    expect((await answers())[0]).toMatch(/stopped$/);
    expect((await answers())[0]?.length).toBeGreaterThanOrEqual((text?.length ?? 0) - 40);
  });

  it("joins a running answer after a reload in the middle of it", async () => {
    await page.getByRole("button", { name: "New chat", exact: true }).first().click();
    await say(longStory);
    await page.locator("#messages .assistant.running").waitFor();
    await expect
      .poll(() => page.locator("#messages .assistant").innerText(), { timeout: 60_000 })
      .toMatch(/\w+ \w+/);
    await page.reload();
    await page.locator("#messages .assistant.running").waitFor({ timeout: pageMsMax });
    await page.getByRole("button", { name: "Stop" }).click();
    await expect.poll(answers).toHaveLength(1);
  });

  it("fits a phone, and asks for a key where it has none", async () => {
    const context = await browser.newContext({ viewport: { width: 390, height: 800 } });
    page = await context.newPage();
    await page.goto(url);
    await page.getByLabel("API key").fill(inject("gatewayKey"));
    await page.getByRole("button", { name: "Use this key" }).click();
    await page.getByRole("button", { name: "Chats" }).click();
    await expect.poll(() => page.locator("#session-list li").count()).toBeGreaterThan(0);
    const { scroll, client } = await page.evaluate(() => ({
      scroll: document.documentElement.scrollWidth,
      client: document.documentElement.clientWidth,
    }));
    expect(scroll).toBeLessThanOrEqual(client);
    await page.screenshot({ path: `${screenshots}/phone.png` });
  });

  it("threw no error", () => {
    expect(errors).toEqual([]);
  });
});
