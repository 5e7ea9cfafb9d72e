import { Code } from "@connectrpc/connect";
import { describe, expect, it, vi } from "vitest";
import { keyCacheTtlMs, keyHashesMax } from "../limits.js";
import { keyringName } from "../objects/keyring-object.js";
import { errorOf, newTenant, testEnv } from "../testing/gateway-clients.js";
import { authenticate } from "./authenticate.js";

function headersOf(authorization: string): Headers {
  return new Headers({ authorization });
}

describe("authenticate", () => {
  it("knows a key however often and in however many headers it is shown", async () => {
    const first = await newTenant({ turns: 2 });
    const second = await newTenant();
    for (let blanks = 1; blanks <= keyHashesMax + 2; blanks++) {
      const shown = headersOf(`Bearer${" ".repeat(blanks)}${first.key}`);
      expect(await authenticate(shown, testEnv)).toMatchObject({
        tenant: first.tenant,
        keyId: first.keyId,
        limits: { turns: 2 },
      });
    }
    for (let calls = 0; calls < 2; calls++) {
      expect((await authenticate(headersOf(`Bearer ${second.key}`), testEnv)).keyId).toBe(
        second.keyId,
      );
      expect((await authenticate(headersOf(`Bearer ${first.key}`), testEnv)).keyId).toBe(
        first.keyId,
      );
    }
  });

  it("refuses each time what opens nothing", async () => {
    const { key } = await newTenant();
    await authenticate(headersOf(`Bearer ${key}`), testEnv);
    for (let calls = 0; calls < 2; calls++) {
      for (const header of [`Bearer ${key}x`, `Basic ${key}`, key, ""]) {
        const error = await errorOf(authenticate(headersOf(header), testEnv));
        expect(error.code).toBe(Code.Unauthenticated);
      }
    }
  });

  it("trusts what it looked up no longer because the clock was set back", async () => {
    const { key, keyId } = await newTenant();
    const now = Date.now;
    vi.spyOn(Date, "now").mockImplementation(() => now() + 3_600_000);
    await authenticate(headersOf(`Bearer ${key}`), testEnv);
    vi.restoreAllMocks();
    await testEnv.KEYRING.getByName(keyringName).revoke(keyId);
    const error = await errorOf(authenticate(headersOf(`Bearer ${key}`), testEnv));
    expect(error.rawMessage).toBe("the API key was revoked");
  });

  it("refuses a key that was revoked though it opened something before", async () => {
    const { key, keyId } = await newTenant();
    await authenticate(headersOf(`Bearer ${key}`), testEnv);
    await testEnv.KEYRING.getByName(keyringName).revoke(keyId);
    await new Promise((resolve) => setTimeout(resolve, keyCacheTtlMs + 50));
    const error = await errorOf(authenticate(headersOf(`Bearer ${key}`), testEnv));
    expect(error.rawMessage).toBe("the API key was revoked");
  });
});
