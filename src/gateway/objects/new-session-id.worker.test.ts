import { expect, it } from "vitest";
import { ownerOfId } from "../processes/object-owner.js";
import { testEnv } from "../testing/gateway-clients.js";
import { newSessionId } from "./new-session-id.js";
import { sessionPlace } from "./session-name.js";
import { sharedIndex } from "./shared-name.js";

const processes = 3;

function idsOf(process: number, sessionObjects: string): string[] {
  const env = {
    SESSION: testEnv.SESSION,
    LEANEDGE_PROCESS: `${process}/${processes}`,
    LEANEDGE_SESSION_OBJECTS: sessionObjects,
  };
  const places = Array.from({ length: 20 }, () =>
    sessionPlace(env, "acme", newSessionId(env, "acme")),
  );
  return [...new Set(places)];
}

it.each([0, 1, 2])("process %i of 3 draws ids of objects that it keeps itself", (process) => {
  const shared = idsOf(process, "7").map((name) => sharedIndex(name) ?? NaN);
  expect(shared.map((index) => index % processes)).toEqual(shared.map(() => process));
  const own = idsOf(process, "").map((name) => testEnv.SESSION.idFromName(name).toString());
  expect(own.map((id) => ownerOfId(id, processes))).toEqual(own.map(() => process));
  expect(own).toHaveLength(20);
});
