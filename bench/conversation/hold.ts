/** Workers, a gateway bound to them, and one conversation with each. */
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createLeanedgeClient } from "../../src/client/index.js";
import { planPath } from "../../src/cli/shipped-plans.js";
import { pageStorages } from "../../src/engine/plan/plan.js";
import { startGateway } from "../../test/support/running-gateway.js";
import {
  startWorkerProcess,
  type RunningWorkerProcess,
} from "../../test/support/worker-process.js";
import { converse, type Conversation } from "./converse.js";
import { plainPlan } from "./plain-plan.js";

/** What is asked, and of what. */
export type Talk = {
  /** GGUF file. */
  readonly modelPath: string;
  /**
   * How archive pages are stored, or the name of a plan that ships for the model: a worker and a conversation each, one after
   * the other.
   */
  readonly storages: readonly string[];
  /** Names of the model, as its plans' files begin. */
  readonly modelNames?: readonly string[];
  readonly system: string;
  readonly questions: readonly string[];
  /** Longest answer, in tokens. */
  readonly maxTokens: number;
  readonly log: (line: string) => void;
};

/** Holds the conversations; nothing is left running. */
export async function holdConversations(talk: Talk): Promise<Conversation[]> {
  const { modelPath, storages } = talk;
  const folder = await mkdtemp(join(tmpdir(), "leanedge-conversation-"));
  const workers: RunningWorkerProcess[] = [];
  try {
    for (const storage of storages) {
      const plain = pageStorages.find((one) => one === storage);
      const plan =
        plain === undefined
          ? await planPath(storage, talk.modelNames ?? [])
          : join(folder, `${storage}.json`);
      if (plain !== undefined) await writeFile(plan, await plainPlan(modelPath, plain));
      workers.push(
        await startWorkerProcess(
          ...["--model", modelPath, "--plan", plan, "--model-id", `model-${storage}`],
        ),
      );
    }
    const gateway = await startGateway(
      ...workers.flatMap(({ model, url }) => ["--worker", `${model}=${url}`]),
    );
    try {
      const client = createLeanedgeClient({
        baseUrl: gateway.url,
        key: gateway.key,
        protocol: "connect",
      });
      const conversations: Conversation[] = [];
      for (const [index, { model }] of workers.entries()) {
        const storage = storages[index] ?? "f16";
        conversations.push(await converse(client, { ...talk, storage, model }));
      }
      return conversations;
    } finally {
      await gateway.close();
    }
  } finally {
    for (const worker of workers) await worker.stop();
    await rm(folder, { recursive: true });
  }
}
