/** The benchmark in its tiny mode: its figures mean nothing, but every variant answers, and answers right. */
import { createServer, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { describe, expect, it } from "vitest";
import { missing, titled } from "../../test/peers/peers.js";
import { runGateway } from "./index.js";
import { runLoad } from "./run-clients.js";
import { portkey } from "./serve-portkey.js";
import { machineClockUs, tokenChars } from "./workload.js";

const timeoutMs = 240_000;
const tiny = { rounds: 1, full: false, tiny: true, log: () => undefined };

describe("the gateway's benchmark", () => {
  it(
    "measures the gateway in both of its forms, and of several processes, against the stub alone",
    async () => {
      const variants = ["direct", "leanedge", "leanedge-connect", "leanedge-processes"];
      const { markdown, figures, images } = await runGateway({ ...tiny, variants });
      expect(markdown).toMatch(/^\| leanedge, OpenAI's form \| -?\d/m);
      expect(markdown).toMatch(/^\| leanedge, Connect \| -?\d/m);
      expect(markdown).toMatch(/^\| leanedge, several processes, OpenAI's form \| -?\d/m);
      // Time added to tokens, and processor time, with the most clients.
      expect(markdown).toMatch(/^\| leanedge, OpenAI's form \| -?\d\S* \| -?\d\S* \| \d\S* \|$/m);
      expect(figures.find(({ name }) => name.endsWith("found their cache"))?.measured).toBe(1);
      expect(figures.filter(({ unit }) => unit === "ms")).toHaveLength(2);
      expect(markdown).toMatch(/^First turns among them: the stub, no gateway \d/m);
      expect(images.get("bench-gateway.svg")).toContain("2 clients");
    },
    timeoutMs,
  );

  it.skipIf(missing(portkey))(
    titled("measures Portkey's gateway", portkey),
    async () => {
      const { markdown } = await runGateway({ ...tiny, variants: ["portkey"] });
      expect(markdown).toMatch(/^\| Portkey, OpenAI's form \| - \|/m);
    },
    timeoutMs,
  );
});

describe("runLoad()", () => {
  it("begins turns when they are due, whatever became of those before", async () => {
    let held: ServerResponse[] | undefined = [];
    const server = createServer((_, response) => {
      const answered = [...(held ?? []), response];
      // The first one ends with the second: a client that waits for its answer would never send that.
      if (answered.length < 2 && held !== undefined) {
        held = answered;
        return;
      }
      held = undefined;
      for (const one of answered) {
        const content = ` ${machineClockUs()
          .toString(36)
          .padStart(tokenChars - 1, "0")}`;
        const chunk = JSON.stringify({ choices: [{ delta: { content } }] });
        one.end(`data: ${chunk}\n\ndata: [DONE]\n\n`);
      }
    });
    await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
    try {
      const { port } = server.address() as AddressInfo;
      const target = { form: "openai", url: `http://127.0.0.1:${port}`, headers: {} } as const;
      const load = { target, model: "m", streams: 0, arrivalsPerSecond: 100, ms: 0, turnsMin: 2 };
      const result = await runLoad({ ...load, tokens: 1, turns: 1, label: "open" });
      expect(result.turns).toBeGreaterThanOrEqual(2);
      expect(result.openings).toBe(result.turns);
    } finally {
      server.closeAllConnections();
      server.close();
    }
  });
});
