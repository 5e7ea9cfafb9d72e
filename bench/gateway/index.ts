/** What the gateway adds to a worker's answers, next to Portkey's gateway. See README.md beside this file. */
import type { BenchOptions, Section } from "../support/section.js";
import { bundledGateway } from "./bundled-gateway.js";
import { arrivalsPerSecond, measureGateway, tinyPlan, wholePlan } from "./measure.js";
import { section } from "./report.js";
import { portkey } from "./serve-portkey.js";

/** Measures with the programs of this repository. */
export async function runGateway(options: BenchOptions): Promise<Section> {
  const plan = options.tiny ? tinyPlan : wholePlan;
  const gateway = await bundledGateway();
  try {
    const results = await measureGateway(options, plan, {
      gateway,
      portkey: portkey.present ? portkey.program : undefined,
      cores: undefined,
    });
    return section(results, plan.streams, arrivalsPerSecond);
  } finally {
    await gateway.remove();
  }
}
