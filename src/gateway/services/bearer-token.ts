/** Tokens of those who are no tenants: workers that register, and people who run the gateway. */
import { unauthenticated } from "../errors.js";
import { equalInConstantTime, hashApiKey } from "../objects/api-key.js";

/**
 * Checks `authorization: Bearer TOKEN`. Throws UNAUTHENTICATED if it is another one, or if the configuration has none.
 * Takes the same time whatever is shown.
 *
 * @param variable name of the variable that holds the token, for the message
 */
export function requireToken(headers: Headers, token: string | undefined, variable: string): void {
  if (token === undefined) {
    throw unauthenticated(`this gateway has no ${variable}, so nobody may call this`);
  }
  // The scheme's name is the same in any case.
  const shown = (headers.get("authorization") ?? "").replace(/^Bearer +/i, "Bearer ");
  if (!equalInConstantTime(hashApiKey(shown), hashApiKey(`Bearer ${token}`))) {
    throw unauthenticated(`the call must carry the token of ${variable}`);
  }
}
