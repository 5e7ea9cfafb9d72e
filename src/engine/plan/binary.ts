/** A plan as the block of memory that C++ uses in place: engine/include/leanedge/plan.h. */
import { pageLayout } from "../page/layout.js";
import { pageStorages, planVersion, type CachePlan } from "./plan.js";

const magic = 0x504b454c;
const headerBytes = 80;
const layerBytes = 8;
const headBytes = 56;

/** Bytes of a plan's block. */
export function planBlockBytes(plan: CachePlan): number {
  const channels = plan.kept.flat().reduce((sum, list) => sum + list.length, 0);
  return (
    headerBytes +
    plan.layers * layerBytes +
    plan.layers * plan.kvHeads * headBytes +
    Math.ceil((channels * 2) / 4) * 4
  );
}

/** Lays a plan out for the engine, page layout included. */
export function planBlock(plan: CachePlan): Uint8Array<ArrayBuffer> {
  const layout = pageLayout(plan);
  const channels = plan.kept.flat(2);
  const block = new Uint8Array(planBlockBytes(plan));
  const view = new DataView(block.buffer);
  let at = 0;
  const u32 = (...values: readonly number[]): void => {
    for (const value of values) {
      view.setUint32(at, value, true);
      at += 4;
    }
  };
  u32(magic, planVersion, block.length, plan.layers, plan.kvHeads, plan.headDim);
  u32(plan.sink, plan.recent);
  u32(pageStorages.indexOf(plan.storage.k), pageStorages.indexOf(plan.storage.v));
  u32(plan.pageSelection?.pagesPerStep ?? 0, plan.pageSelection?.pagesFloor ?? 0);
  u32(plan.context.minTokens, plan.context.maxTokens, plan.evicting ? 1 : 0, channels.length);
  u32(layout.pageBytes, layout.kChannelBytes, layout.vRowBytes, layout.vGroups);
  for (const layer of layout.layers) u32(layer.offset, layer.bytes);
  for (const layer of layout.layers) {
    for (const head of layer.heads) {
      u32(head.width, head.channels, head.offset, head.bytes);
      u32(head.kValues, head.kScale, head.kMin, head.kMax);
      u32(head.vValues, head.vScale, head.vMin, head.count, head.positions, 0);
    }
  }
  channels.forEach((channel, index) => {
    view.setUint16(at + index * 2, channel, true);
  });
  return block;
}
