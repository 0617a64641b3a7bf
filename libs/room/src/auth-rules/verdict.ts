/**
 * What the auth rules say of a PDU. `rule` is the requirement that decided, such as `AU-20`; `detail` one sentence
 * that names the facts it looked at.
 */
export type AuthVerdict =
  { readonly allowed: true } | { readonly allowed: false; readonly rule: string; readonly detail: string };

export const allowed: AuthVerdict = { allowed: true };

export function refused(rule: string, detail: string): AuthVerdict {
  return { allowed: false, rule, detail };
}
