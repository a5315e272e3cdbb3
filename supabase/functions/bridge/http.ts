// Requests in, answers out: bodies that are checked, answers that every route shares, CORS.

import { Refusal } from "./errors.ts";

/** A body of ours has two fields. */
const BODY_BYTES_MAX = 8 * 1024;
const USER_ID_CHARS_MAX = 320;
const ACCOUNT_ID_MAX = 2n ** 63n - 1n;

/** How long a browser remembers what it may send. */
const PREFLIGHT_SECS = 3600;

/** What the routes are called behind Supabase's gateway, and without it. */
export function routeOf(url: URL): string {
  const path = url.pathname.replace(/^(\/functions\/v1)?\/bridge(?=\/|$)/, "");
  return path === "" ? "/" : path;
}

export function answer(status: number, body: unknown, headers: Record<string, string>): Response {
  return new Response(JSON.stringify(body), {
    status,
    headers: {
      "content-type": "application/json; charset=utf-8",
      "cache-control": "no-store",
      "x-content-type-options": "nosniff",
      ...headers,
    },
  });
}

/** The headers that let a configured origin read the answer. Any other gets none. */
export function corsHeaders(request: Request, origins: ReadonlySet<string>): Record<string, string> {
  const origin = request.headers.get("origin");
  if (origin === null) return { vary: "origin" };
  if (origins.has("*")) return { "access-control-allow-origin": "*" };
  if (!origins.has(origin)) return { vary: "origin" };
  return { "access-control-allow-origin": origin, vary: "origin" };
}

export function preflight(cors: Record<string, string>): Response {
  if (!("access-control-allow-origin" in cors)) {
    return answer(403, { success: false, error: "this origin is not allowed" }, cors);
  }
  return new Response(null, {
    status: 204,
    headers: {
      ...cors,
      "access-control-allow-methods": "GET, POST",
      "access-control-allow-headers": "authorization, apikey, content-type, x-client-info",
      "access-control-max-age": String(PREFLIGHT_SECS),
    },
  });
}

/** The body of a POST: a JSON object, and no larger than ours are. */
export async function readBody(request: Request): Promise<Record<string, unknown>> {
  const type = request.headers.get("content-type")?.split(";")[0]?.trim().toLowerCase();
  if (type !== "application/json") {
    throw new Refusal(415, "the body has to be application/json");
  }
  const text = await readText(request);
  let body: unknown;
  try {
    body = JSON.parse(text);
  } catch {
    throw new Refusal(400, "the body is not JSON");
  }
  if (typeof body !== "object" || body === null || Array.isArray(body)) {
    throw new Refusal(400, "the body is not a JSON object");
  }
  return body as Record<string, unknown>;
}

async function readText(request: Request): Promise<string> {
  const tooLarge = () => new Refusal(413, `the body has more than ${BODY_BYTES_MAX} bytes`);
  if (Number(request.headers.get("content-length") ?? 0) > BODY_BYTES_MAX) throw tooLarge();
  const decoder = new TextDecoder("utf-8", { fatal: true });
  let [text, size] = ["", 0];
  try {
    for await (const chunk of request.body ?? []) {
      size += chunk.length;
      if (size > BODY_BYTES_MAX) throw tooLarge();
      text += decoder.decode(chunk, { stream: true });
    }
    return text + decoder.decode();
  } catch (error) {
    if (error instanceof Refusal) throw error;
    throw new Refusal(400, "the body is not UTF-8");
  }
}

/** A user id as the worker takes it. */
export function userIdOf(value: unknown): string {
  if (typeof value !== "string" || value === "") {
    throw new Refusal(400, "userId is missing");
  }
  // Characters, not UTF-16 units; and none that UTF-8 or Postgres cannot hold.
  if (value.length > 2 * USER_ID_CHARS_MAX || [...value].length > USER_ID_CHARS_MAX) {
    throw new Refusal(400, `userId has more than ${USER_ID_CHARS_MAX} characters`);
  }
  if (value.includes("\0") || !value.isWellFormed()) {
    throw new Refusal(400, "userId has a character that is none");
  }
  return value;
}

/** An account id: a number, or its digits; undefined if there is none. */
export function accountIdOf(value: unknown): string | undefined {
  if (value === undefined || value === null) return undefined;
  const digits = typeof value === "number" && Number.isSafeInteger(value) ? String(value) : value;
  if (typeof digits !== "string" || !/^[0-9]{1,32}$/.test(digits)) {
    throw new Refusal(400, "accountId is not a number");
  }
  const id = BigInt(digits);
  if (id < 1n || id > ACCOUNT_ID_MAX) throw new Refusal(400, "accountId is out of range");
  return String(id);
}

/** A number of a query, within bounds. */
export function countOf(value: string | null, name: string, otherwise: number, most: number): number {
  if (value === null) return otherwise;
  if (!/^[0-9]{1,9}$/.test(value) || Number(value) > most) {
    throw new Refusal(400, `${name} is not a number up to ${most}`);
  }
  return Number(value);
}
