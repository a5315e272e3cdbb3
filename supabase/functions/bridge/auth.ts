// Authentication: verifies the caller's Supabase JWT, and tells users and the service from anybody else.
//
// The token's algorithm decides which keys are tried: public keys for ES256 and RS256, the secret for HS256
// only. A public key is never used as an HMAC secret.

import {
  createLocalJWKSet,
  createRemoteJWKSet,
  decodeProtectedHeader,
  errors,
  type JWTPayload,
  jwtVerify,
  type JWTVerifyGetKey,
} from "jose";
import { HttpError } from "./errors.ts";
import type { Settings } from "./env.ts";

/** The owner of a valid token. `anonymous` is the app itself, with its anonymous key. */
export type Caller =
  | { kind: "service" }
  | { kind: "user"; ids: string[] }
  | { kind: "anonymous" };

/** Clocks differ, and Supabase's tokens are valid for an hour. */
const CLOCK_TOLERANCE_SECS = 5;
const KEYS_TIMEOUT_MS = 2000;
/** Longer than any of Supabase's tokens. It bounds what is parsed before the caller is known. */
const TOKEN_CHARS_MAX = 8192;

export type Authenticate = (request: Request) => Promise<Caller>;

export function authenticator(settings: Settings): Authenticate {
  const keys = publicKeys(settings);
  return async (request) => callerOf(await verify(bearerToken(request), keys, settings.jwtSecret));
}

function bearerToken(request: Request): string {
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
    if (error instanceof HttpError) throw error;
    if (error instanceof errors.JWTExpired) throw unauthorised("the token has expired");
    // The caller does not learn what else is wrong with the token.
  }
  throw unauthorised("the token is not valid");
}

function callerOf(claims: JWTPayload): Caller {
  if (claims.role === "service_role") return { kind: "service" };
  if (claims.role === "authenticated") {
    const ids = [claims.sub, claims.email]
      .filter((id): id is string => typeof id === "string" && id !== "");
    if (ids.length > 0) return { kind: "user", ids };
  }
  return { kind: "anonymous" };
}

/** Returns the configured keys; a token that names another key is looked up among the project's own. */
function publicKeys(settings: Settings): JWTVerifyGetKey | undefined {
  const local = settings.jwks && createLocalJWKSet(settings.jwks);
  const remote = settings.jwksUrl === undefined ? undefined : remoteKeys(settings.jwksUrl);
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

/** Errors of a look-up that are not the token's fault. The generic one is a response without keys. */
const UNAVAILABLE_CODES = ["ERR_JWKS_TIMEOUT", "ERR_JWKS_INVALID", "ERR_JOSE_GENERIC"];

function remoteKeys(url: string): JWTVerifyGetKey {
  const keys = createRemoteJWKSet(new URL(url), { timeoutDuration: KEYS_TIMEOUT_MS });
  return async (header, token) => {
    try {
      return await keys(header, token);
    } catch (error) {
      if (error instanceof errors.JOSEError && !UNAVAILABLE_CODES.includes(error.code)) throw error;
      throw new HttpError(503, "the token's key could not be fetched", { "retry-after": "2" });
    }
  };
}

function unauthorised(message: string): HttpError {
  return new HttpError(401, message, { "www-authenticate": "Bearer" });
}

/** Throws an `HttpError` of 403 unless the caller may act for that user. */
export function requireMayActFor(caller: Caller, userId: string): void {
  if (caller.kind === "service") return;
  if (caller.kind === "user" && caller.ids.includes(userId)) return;
  throw new HttpError(403, "you can act for yourself only");
}
