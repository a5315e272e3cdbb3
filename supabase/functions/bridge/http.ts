// Parses requests, and builds the responses that the routes share: bodies, parameters, CORS.

import { HttpError } from "./errors.ts";

/** A request's body has two short fields. */
const BODY_BYTES_MAX = 8 * 1024;
const USER_ID_CHARS_MAX = 320;
const ACCOUNT_ID_MAX = 2n ** 63n - 1n;

/** How long a browser caches the response to a preflight. */
const PREFLIGHT_MAX_AGE_SECS = 3600;

/** Returns the path of a route, without the prefix that Supabase's gateway may have left. */
export function routePath(url: URL): string {
  const path = url.pathname.replace(/^(\/functions\/v1)?\/bridge(?=\/|$)/, "");
  return path === "" ? "/" : path;
}

export function jsonResponse(status: number, body: unknown, headers: Record<string, string>): Response {
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

/** Returns the headers that let a configured origin read the response. Other origins get none of them. */
export function corsHeaders(request: Request, origins: ReadonlySet<string>): Record<string, string> {
  const origin = request.headers.get("origin");
  if (origin === null) return { vary: "origin" };
  if (origins.has("*")) return { "access-control-allow-origin": "*" };
  if (!origins.has(origin)) return { vary: "origin" };
  return { "access-control-allow-origin": origin, vary: "origin" };
}

export function preflightResponse(cors: Record<string, string>): Response {
  if (!("access-control-allow-origin" in cors)) {
    return jsonResponse(403, { success: false, error: "this origin is not allowed" }, cors);
  }
  return new Response(null, {
    status: 204,
    headers: {
      ...cors,
      "access-control-allow-methods": "GET, POST",
      "access-control-allow-headers": "authorization, apikey, content-type, x-client-info",
      "access-control-max-age": String(PREFLIGHT_MAX_AGE_SECS),
    },
  });
}

/** Reads a body that has to be a JSON object of at most `BODY_BYTES_MAX`. */
export async function readJsonObject(request: Request): Promise<Record<string, unknown>> {
  const type = request.headers.get("content-type")?.split(";")[0]?.trim().toLowerCase();
  if (type !== "application/json") {
    throw new HttpError(415, "the body has to be application/json");
  }
  const text = await readText(request);
  let body: unknown;
  try {
    body = JSON.parse(text);
  } catch {
    throw new HttpError(400, "the body is not JSON");
  }
  if (typeof body !== "object" || body === null || Array.isArray(body)) {
    throw new HttpError(400, "the body is not a JSON object");
  }
  return body as Record<string, unknown>;
}

async function readText(request: Request): Promise<string> {
  const tooLarge = () => new HttpError(413, `the body has more than ${BODY_BYTES_MAX} bytes`);
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
    if (error instanceof HttpError) throw error;
    throw new HttpError(400, "the body is not UTF-8");
  }
}

/** Checks a user's id by the worker's rules. */
export function parseUserId(value: unknown): string {
  if (typeof value !== "string" || value === "") {
    throw new HttpError(400, "userId is missing");
  }
  // The limit counts characters, not UTF-16 units. UTF-8 has no lone surrogates, Postgres no NUL.
  if (value.length > 2 * USER_ID_CHARS_MAX || [...value].length > USER_ID_CHARS_MAX) {
    throw new HttpError(400, `userId has more than ${USER_ID_CHARS_MAX} characters`);
  }
  if (value.includes("\0") || !value.isWellFormed()) {
    throw new HttpError(400, "userId has a character that is none");
  }
  return value;
}

/** Returns the digits of an account's id, which is given as a number or a string; undefined if it is missing. */
export function parseAccountId(value: unknown): string | undefined {
  if (value === undefined || value === null) return undefined;
  const digits = typeof value === "number" && Number.isSafeInteger(value) ? String(value) : value;
  if (typeof digits !== "string" || !/^[0-9]{1,32}$/.test(digits)) {
    throw new HttpError(400, "accountId is not a number");
  }
  const id = BigInt(digits);
  if (id < 1n || id > ACCOUNT_ID_MAX) throw new HttpError(400, "accountId is out of range");
  return String(id);
}

/** Returns a number from the query string, from 0 to `max`. */
export function parseCount(value: string | null, name: string, fallback: number, max: number): number {
  if (value === null) return fallback;
  if (!/^[0-9]{1,9}$/.test(value) || Number(value) > max) {
    throw new HttpError(400, `${name} is not a number up to ${max}`);
  }
  return Number(value);
}
