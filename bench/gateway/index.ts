/** What the gateway adds to a worker's answers, next to Portkey's gateway. See README.md beside this file. */
import type { BenchOptions, Section } from "../support/section.js";
import { bundledGateway } from "./bundled-gateway.js";
import { arrivalsPerSecond, measureGateway, tinyPlan, wholePlan } from "./measure.js";
import { section } from "./report.js";
import { portkey } from "./serve-portkey.js";

/** Processes of the gateway where there are several: on two cores they tell what they cost, and little of what they bring. */
const processes = 2;

/** Measures with the programs of this repository. */
export async function runGateway(options: BenchOptions): Promise<Section> {
  const plan = options.tiny ? tinyPlan : wholePlan;
  const gateway = await bundledGateway(processes);
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
