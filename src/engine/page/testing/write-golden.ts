/**
 * Writes the golden files anew: `npx tsx src/engine/page/testing/write-golden.ts`. Only for a new
 * version of a format: the files are what keeps backends and versions compatible.
 */
import { writeFileSync } from "node:fs";
import { goldenPagesFile, goldenSnapshotFile } from "./golden.js";

const folder = new URL("../../../../engine/testdata/", import.meta.url);
writeFileSync(new URL("pages-v1.bin", folder), goldenPagesFile());
writeFileSync(new URL("snapshot-v1.bin", folder), await goldenSnapshotFile());
