// The `state` parameter of a consent: signed, bound to its user, valid once and for ten minutes.
//
// The state does not contain the user's id, because cTrader sees it. The id is part of the signed text: the
// callback tries the ids of the caller, so another user's state is refused before the database is asked.

import { base64url } from "jose";
import { HttpError } from "./errors.ts";

export const STATE_LIFETIME_SECS = 600;

const encoder = new TextEncoder();

export interface ConsentState {
  state: string;
  /** The hash under which the database stores the state. */
  hash: string;
  expiresAt: Date;
}

export async function createState(
  secret: string,
  userId: string,
  now = Date.now(),
): Promise<ConsentState> {
  const nonce = base64url.encode(crypto.getRandomValues(new Uint8Array(24)));
  const expirySecs = Math.floor(now / 1000) + STATE_LIFETIME_SECS;
  const tag = await crypto.subtle.sign("HMAC", await hmacKey(secret), signedText(nonce, expirySecs, userId));
  return {
    state: `${nonce}.${expirySecs}.${base64url.encode(new Uint8Array(tag))}`,
    hash: await hashOf(nonce),
    expiresAt: new Date(expirySecs * 1000),
  };
}

const NOT_YOURS = "the state is not one of yours";

/** Returns which of the users the state was created for. */
export async function verifyState(
  secret: string,
  state: string,
  userIds: string[],
  now = Date.now(),
): Promise<{ hash: string; userId: string }> {
  const parts = /^([\w-]{32})\.(\d{10,12})\.([\w-]{43})$/.exec(state);
  const [nonce, expiry, tag] = parts?.slice(1) ?? [];
  if (nonce === undefined || expiry === undefined || tag === undefined) {
    throw new HttpError(400, "the state is not one of ours");
  }
  // The last character of the tag carries four bits, so only sixteen characters are what we sign with.
  if (!/[AEIMQUYcgkosw048]$/.test(tag)) throw new HttpError(403, NOT_YOURS);
  const expirySecs = Number(expiry);
  const signature = new Uint8Array(base64url.decode(tag));
  const key = await hmacKey(secret);
  for (const userId of userIds) {
    // In constant time.
    const isSigned = await crypto.subtle.verify(
      "HMAC",
      key,
      signature,
      signedText(nonce, expirySecs, userId),
    );
    if (!isSigned) continue;
    if (expirySecs * 1000 < now) throw new HttpError(400, "the consent took too long; begin again");
    return { hash: await hashOf(nonce), userId };
  }
  throw new HttpError(403, NOT_YOURS);
}

function hmacKey(secret: string): Promise<CryptoKey> {
  const algorithm = { name: "HMAC", hash: "SHA-256" };
  return crypto.subtle.importKey("raw", encoder.encode(secret), algorithm, false, ["sign", "verify"]);
}

function signedText(nonce: string, expirySecs: number, userId: string) {
  return encoder.encode(`mahspeccy-bridge consent v1\n${nonce}\n${expirySecs}\n${userId}`);
}

async function hashOf(nonce: string): Promise<string> {
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", encoder.encode(nonce)));
  return Array.from(digest, (byte) => byte.toString(16).padStart(2, "0")).join("");
}
