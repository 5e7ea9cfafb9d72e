/** The gateway that we compare with: `@portkey-ai/gateway` in Node, as its own command runs it. */
import { spawn } from "node:child_process";
import { existsSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { freePort } from "../../test/support/free-port.js";
import { onCores } from "../support/cores.js";
import { untilReady, type Server } from "./serve-gateway.js";

const program = fileURLToPath(
  new URL("../peers/node_modules/@portkey-ai/gateway/build/start-server.js", import.meta.url),
);

/** Whether `npm run peers` has installed it. */
export const portkey = {
  program,
  present: existsSync(program),
  remedy: "needs `npm run peers`",
};

/** Starts a server of it (a script) on a free port; `cores` as in serveGateway. */
export async function servePortkey(script: string, cores?: string): Promise<Server> {
  const port = await freePort();
  const { command, args } = onCores(cores, process.execPath, [
    ...[script, "--headless", `--port=${port}`],
  ]);
  const child = spawn(command, args, {
    stdio: ["ignore", "ignore", process.env["LEANEDGE_LOG"] === "debug" ? "inherit" : "ignore"],
    env: { ...process.env, NODE_ENV: "production" },
  });
  return untilReady(child, `http://127.0.0.1:${port}`, "/");
}

/** Headers that lead its requests to an OpenAI-compatible server. */
export function portkeyHeaders(openAiUrl: string): Record<string, string> {
  return {
    authorization: "Bearer stub",
    "x-portkey-provider": "openai",
    "x-portkey-custom-host": `${openAiUrl}/v1`,
  };
}
