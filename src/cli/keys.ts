/** `leanedge keys`: make, list and revoke the API keys of a gateway. */
import { create, toJson } from "@bufbuild/protobuf";
import { timestampDate, timestampFromMs, type Timestamp } from "@bufbuild/protobuf/wkt";
import { InvalidArgumentError, type Command } from "commander";
import {
  ApiKeySchema,
  CreateKeyResponseSchema,
  KeyLimitsSchema,
  KeyOrigin,
  KeyService,
  KeyState,
  type ApiKey,
  type KeyLimits,
} from "../gen/leanedge/admin/v1/key_pb.js";
import { adminClient, type AdminFlags } from "./admin-client.js";
import { alignedTable, type Column } from "./table.js";

/** Keys that one call of the list asks for. */
const pageSize = 1_000;

/** Limits as the command line names them, in the order of their columns. */
const limitFields = {
  requests_per_minute: "requestsPerMinute",
  tokens_per_minute: "tokensPerMinute",
  turns: "turns",
  sessions: "sessions",
  context_tokens: "contextTokens",
  output_tokens: "outputTokens",
} as const satisfies Record<string, keyof KeyLimits>;

type LimitName = keyof typeof limitFields;
type LimitField = (typeof limitFields)[LimitName];
/** Limits that options named so far. */
type LimitValues = Partial<Record<LimitName, number>>;

const unitMs = { s: 1_000, m: 60_000, h: 3_600_000, d: 86_400_000 } as const;

interface KeyFlags extends AdminFlags {
  readonly json: boolean;
}

interface CreateFlags extends KeyFlags {
  readonly tenant: string;
  readonly name: string;
  readonly expires: number | undefined;
  readonly limit: LimitValues;
}

interface ListFlags extends KeyFlags {
  readonly tenant: string;
}

/** Adds the commands to the program. */
export function addKeyCommands(program: Command): void {
  const keys = program.command("keys").description("API keys of a gateway");
  const add = (name: string, description: string): Command =>
    keys
      .command(name)
      .description(description)
      .option("--gateway <url>", "address of the gateway", "http://127.0.0.1:8787")
      .requiredOption("--admin-token-file <file>", "file with the gateway's admin token")
      .option("--json", "print JSON", false);
  add("create", "make a key; it is shown this once")
    .requiredOption("--tenant <tenant>", "tenant whose sessions it opens")
    .requiredOption("--name <name>", "name for people, unlike that of any active key of the tenant")
    .option(
      "--expires <time>",
      "when it ends: 90s, 30m, 12h, 30d from now, or a date and time (default: never)",
      (text: string) => expiryMs(text, Date.now()),
    )
    .option(
      "--limit <name=number>",
      `one of ${Object.keys(limitFields).join(", ")}; 0 for none (may be repeated; default: the gateway's)`,
      limitOption,
      {},
    )
    .action(createKey);
  add("list", "list the keys")
    .option("--tenant <tenant>", "only those of this tenant", "")
    .action(listKeys);
  add("revoke", "end a key for good, with all that runs under it")
    .argument("<key-id>", "id of the key, as the list shows it")
    .action(revokeKey);
}

async function createKey(flags: CreateFlags): Promise<void> {
  const limits = create(KeyLimitsSchema);
  for (const [name, field] of Object.entries(limitFields) as [LimitName, LimitField][]) {
    const value = flags.limit[name];
    if (value !== undefined) Object.assign(limits, { [field]: value });
  }
  const client = await adminClient(KeyService, flags);
  const made = await client.createKey({
    tenant: flags.tenant,
    name: flags.name,
    limits,
    ...(flags.expires === undefined ? {} : { expireTime: timestampFromMs(flags.expires) }),
  });
  if (flags.json) {
    console.log(JSON.stringify(toJson(CreateKeyResponseSchema, made), undefined, 2));
    return;
  }
  console.log(made.key);
  console.error(
    `Key ${made.apiKey?.keyId ?? ""} of tenant ${flags.tenant}. It is shown this once; keep it.`,
  );
}

async function listKeys(flags: ListFlags): Promise<void> {
  const client = await adminClient(KeyService, flags);
  const all: ApiKey[] = [];
  let pageToken = "";
  do {
    const page = await client.listKeys({ tenant: flags.tenant, pageSize, pageToken });
    all.push(...page.keys);
    pageToken = page.nextPageToken;
  } while (pageToken !== "");
  print(all, flags.json);
}

async function revokeKey(keyId: string, flags: KeyFlags): Promise<void> {
  const { apiKey } = await (await adminClient(KeyService, flags)).revokeKey({ keyId });
  print(apiKey === undefined ? [] : [apiKey], flags.json);
}

/** When a key ends, in milliseconds since 1970: a time from `nowMs` on, or a date. Throws InvalidArgumentError. */
export function expiryMs(text: string, nowMs: number): number {
  const { count, unit } = /^(?<count>\d{1,6})(?<unit>[smhd])$/.exec(text)?.groups ?? {};
  const ms =
    count === undefined || unit === undefined
      ? Date.parse(text)
      : nowMs + Number(count) * unitMs[unit as keyof typeof unitMs];
  if (!(ms > nowMs)) {
    throw new InvalidArgumentError(
      `"${text}" is no time in the future: 90s, 30m, 12h, 30d or a date.`,
    );
  }
  return ms;
}

/** Takes one more `NAME=NUMBER`. Throws InvalidArgumentError. */
export function limitOption(text: string, before: LimitValues): LimitValues {
  const { name, value } = /^(?<name>[a-z_]+)=(?<value>\d{1,10})$/.exec(text)?.groups ?? {};
  if (name === undefined || value === undefined || !Object.hasOwn(limitFields, name)) {
    throw new InvalidArgumentError(
      `"${text}" must read NAME=NUMBER, where the name is one of ${Object.keys(limitFields).join(", ")}.`,
    );
  }
  return { ...before, [name]: Number(value) };
}

const columns: readonly Column<ApiKey>[] = [
  ["KEY", ({ keyId }) => keyId],
  ["TENANT", ({ tenant }) => tenant],
  ["NAME", ({ name }) => name],
  ["ORIGIN", ({ origin }) => KeyOrigin[origin].toLowerCase()],
  ["STATE", ({ state }) => KeyState[state].toLowerCase()],
  ["CREATED", ({ createTime }) => time(createTime)],
  ["LAST USED", ({ lastUseTime }) => time(lastUseTime)],
  ["EXPIRES", ({ expireTime }) => time(expireTime)],
  ["LIMITS", ({ effectiveLimits }) => limitsText(effectiveLimits)],
];

/** One line a key, columns aligned; then why some cannot be revoked. */
export function keyTable(keys: readonly ApiKey[]): string[] {
  const notes = keys
    .filter(({ notRevocableReason }) => notRevocableReason !== "")
    .map(({ keyId, notRevocableReason }) => `${keyId} cannot be revoked: ${notRevocableReason}`);
  return [...alignedTable(columns, keys), ...notes];
}

function print(keys: readonly ApiKey[], json: boolean): void {
  if (json) {
    const list = keys.map((key) => toJson(ApiKeySchema, key));
    console.log(JSON.stringify({ keys: list }, undefined, 2));
    return;
  }
  for (const line of keyTable(keys)) console.log(line);
}

function time(timestamp: Timestamp | undefined): string {
  return timestamp === undefined
    ? "-"
    : timestampDate(timestamp).toISOString().slice(0, 16).replace("T", " ");
}

function limitsText(limits: KeyLimits | undefined): string {
  const parts = (Object.entries(limitFields) as [LimitName, LimitField][])
    .map(([name, field]) => [name, limits?.[field]] as const)
    .filter(([, value]) => value !== undefined)
    .map(([name, value]) => `${name}=${value ?? 0}`);
  return parts.length === 0 ? "none" : parts.join(",");
}
