#!/usr/bin/env node
// Starts the `leanedge` command. The sources are TypeScript and run as they are: tsx strips their
// types and resolves the `.js` endings of relative imports, so there is no build step to forget.
import { register } from "tsx/esm/api";

register();
await import("../src/cli/main.ts");
