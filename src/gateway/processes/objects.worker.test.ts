import { describe, expect, it } from "vitest";
import { sharedName } from "../objects/shared-name.js";
import { testEnv } from "../testing/gateway-clients.js";
import { ownerOfId } from "./object-owner.js";
import { isOwn, objectOfId } from "./objects.js";

const processes = 3;
const objects = 7;

/** Bindings of each process of a gateway whose sessions share objects. No other process is to be reached from there. */
const envs = Array.from({ length: processes }, (_, index) => ({
  SESSION: testEnv.SESSION,
  TENANT: testEnv.TENANT,
  LEANEDGE_PROCESS: `${index}/${processes}`,
  LEANEDGE_SESSION_OBJECTS: `${objects}`,
}));

/** Processes that take an object of a session for their own by its id. */
function ownersOf(id: string): number[] {
  return envs.flatMap((env, index) => {
    try {
      objectOfId(env, "SESSION", id);
      return [index];
    } catch (error) {
      expect(String(error)).toMatch(/the gateway has no binding PEER_\d/);
      return [];
    }
  });
}

describe("the process that keeps an object of sessions", () => {
  it("follows from its index where they share it, by its name and by its id alike", () => {
    for (let index = 0; index < objects; index++) {
      const name = sharedName(index);
      const own = envs.map((env) => isOwn(env, "SESSION", name));
      expect(own).toEqual(envs.map((_, process) => process === index % processes));
      expect(ownersOf(testEnv.SESSION.idFromName(name).toString())).toEqual([index % processes]);
    }
  });

  it("follows from its id where a session has one of its own", () => {
    for (const name of ["dev/a", "dev/b", "dev/c", "dev/d"]) {
      const id = testEnv.SESSION.idFromName(name).toString();
      expect(ownersOf(id)).toEqual([ownerOfId(id, processes)]);
    }
  });

  it("follows from the id of an object of another class, whatever its name", () => {
    const name = sharedName(1);
    const id = testEnv.TENANT.idFromName(name).toString();
    expect(envs.findIndex((env) => isOwn(env, "TENANT", name))).toBe(ownerOfId(id, processes));
  });
});
