// Who asks: verifies Supabase's JWT and tells the user or the service from everybody else.
//
// The algorithm decides the kind of key, never the other way round: a public key is no HMAC secret.

import {
  createLocalJWKSet,
  createRemoteJWKSet,
  decodeProtectedHeader,
  errors,
  type JWTPayload,
  jwtVerify,
  type JWTVerifyGetKey,
} from "jose";
import { Refusal } from "./errors.ts";
import type { Settings } from "./env.ts";

/** Who has a valid token. `nobody` is the app itself, with its anonymous key. */
export type Caller =
  | { kind: "service" }
  | { kind: "user"; ids: string[] }
  | { kind: "nobody" };

/** Clocks differ; Supabase's tokens live for an hour. */
const CLOCK_TOLERANCE_SECS = 5;
const KEYS_TIMEOUT_MS = 2000;
/** Longer than any token of Supabase's; also bounds what is parsed for strangers. */
const TOKEN_CHARS_MAX = 8192;

export type Authenticate = (request: Request) => Promise<Caller>;

export function authenticator(settings: Settings): Authenticate {
  const keys = publicKeys(settings);
  return async (request) => caller(await verify(bearer(request), keys, settings.jwtSecret));
}

function bearer(request: Request): string {
  const header = request.headers.get("authorization") ?? "";
  const token = /^Bearer ([A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*)$/i.exec(header)?.[1];
  if (token === undefined || token.length > TOKEN_CHARS_MAX) {
    throw unauthorised("a valid Supabase token is needed: Authorization: Bearer …");
  }
  return token;
}

async function verify(
  token: string,
  keys: JWTVerifyGetKey | undefined,
  secret: Uint8Array | undefined,
): Promise<JWTPayload> {
  const options = { clockTolerance: CLOCK_TOLERANCE_SECS, requiredClaims: ["exp", "role"] };
  try {
    const { alg } = decodeProtectedHeader(token);
    if ((alg === "ES256" || alg === "RS256") && keys !== undefined) {
      return (await jwtVerify(token, keys, { ...options, algorithms: [alg] })).payload;
    }
    if (alg === "HS256" && secret !== undefined) {
      return (await jwtVerify(token, secret, { ...options, algorithms: ["HS256"] })).payload;
    }
  } catch (error) {
    if (error instanceof Refusal) throw error;
    if (error instanceof errors.JWTExpired) throw unauthorised("the token has expired");
    // Whatever else is wrong with it is nobody's business.
  }
  throw unauthorised("the token is not valid");
}

function caller(claims: JWTPayload): Caller {
  if (claims.role === "service_role") return { kind: "service" };
  if (claims.role === "authenticated") {
    const ids = [claims.sub, claims.email]
      .filter((id): id is string => typeof id === "string" && id !== "");
    if (ids.length > 0) return { kind: "user", ids };
  }
  return { kind: "nobody" };
}

/** The keys that were given, and the project's own once a token names a key that is not among them. */
function publicKeys(settings: Settings): JWTVerifyGetKey | undefined {
  const local = settings.jwks && createLocalJWKSet(settings.jwks);
  const remote = settings.jwksUrl === undefined ? undefined : fetchedKeys(settings.jwksUrl);
  if (local === undefined || remote === undefined) return local ?? remote;
  return async (header, token) => {
    try {
      return await local(header, token);
    } catch (error) {
      if (error instanceof errors.JWKSNoMatchingKey) return await remote(header, token);
      throw error;
    }
  };
}

/** Errors of a look-up that are not the token's fault; the generic one is an answer without keys. */
const UNAVAILABLE = ["ERR_JWKS_TIMEOUT", "ERR_JWKS_INVALID", "ERR_JOSE_GENERIC"];

function fetchedKeys(url: string): JWTVerifyGetKey {
  const keys = createRemoteJWKSet(new URL(url), { timeoutDuration: KEYS_TIMEOUT_MS });
  return async (header, token) => {
    try {
      return await keys(header, token);
    } catch (error) {
      if (error instanceof errors.JOSEError && !UNAVAILABLE.includes(error.code)) throw error;
      throw new Refusal(503, "the token's key could not be fetched", { "retry-after": "2" });
    }
  };
}

function unauthorised(message: string): Refusal {
  return new Refusal(401, message, { "www-authenticate": "Bearer" });
}

/** Passes if the caller may act for that user. */
export function mayActFor(caller: Caller, userId: string): void {
  if (caller.kind === "service") return;
  if (caller.kind === "user" && caller.ids.includes(userId)) return;
  throw new Refusal(403, "you can act for yourself only");
}
