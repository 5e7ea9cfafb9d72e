import { createEchoApp } from "../../src/gateway/connect/testing/echo-app.js";

/** The echo app in a Worker of its own; `/seen` tells how calls ended and how far streams came. */
const { app, ends, unexpected, counted } = createEchoApp();

app.get("/seen", (c) =>
  c.json({ ends, counted: counted(), unexpected: unexpected.map((error) => String(error)) }),
);

export default app;
