// The state of a consent: signed, bound to its user, good once and for ten minutes.
//
// It names nobody, since cTrader sees it. Who it is for is part of what is signed: the callback tries the
// ids of whoever brings it, so that somebody else's state fails before the database is asked.

import { base64url } from "jose";
import { Refusal } from "./errors.ts";

export const LIFETIME_SECS = 600;

const encoder = new TextEncoder();

export interface State {
  state: string;
  hash: string;
  expiresAt: Date;
}

export async function newState(
  secret: string,
  userId: string,
  now = Date.now(),
): Promise<State> {
  const nonce = base64url.encode(crypto.getRandomValues(new Uint8Array(24)));
  const ends = Math.floor(now / 1000) + LIFETIME_SECS;
  const tag = await crypto.subtle.sign("HMAC", await hmacKey(secret), signedText(nonce, ends, userId));
  return {
    state: `${nonce}.${ends}.${base64url.encode(new Uint8Array(tag))}`,
    hash: await hashOf(nonce),
    expiresAt: new Date(ends * 1000),
  };
}

/** Whose state it is, of those it may be for. */
export async function openState(
  secret: string,
  state: string,
  userIds: string[],
  now = Date.now(),
): Promise<{ hash: string; userId: string }> {
  // The last character of a tag carries four bits: only sixteen characters are canonical there.
  const parts = /^([\w-]{32})\.(\d{10,12})\.([\w-]{42}[AEIMQUYcgkosw048])$/.exec(state);
  const [nonce, ends, tag] = parts?.slice(1) ?? [];
  if (nonce === undefined || ends === undefined || tag === undefined) {
    throw new Refusal(400, "the state is not one of ours");
  }
  const key = await hmacKey(secret);
  for (const userId of userIds) {
    const text = signedText(nonce, Number(ends), userId);
    if (!await crypto.subtle.verify("HMAC", key, new Uint8Array(base64url.decode(tag)), text)) continue;
    if (Number(ends) * 1000 < now) throw new Refusal(400, "the consent took too long; begin again");
    return { hash: await hashOf(nonce), userId };
  }
  throw new Refusal(403, "the state is not one of yours");
}

function hmacKey(secret: string): Promise<CryptoKey> {
  const algorithm = { name: "HMAC", hash: "SHA-256" };
  return crypto.subtle.importKey("raw", encoder.encode(secret), algorithm, false, ["sign", "verify"]);
}

function signedText(nonce: string, ends: number, userId: string) {
  return encoder.encode(`mahspeccy-bridge consent v1\n${nonce}\n${ends}\n${userId}`);
}

async function hashOf(nonce: string): Promise<string> {
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", encoder.encode(nonce)));
  return Array.from(digest, (byte) => byte.toString(16).padStart(2, "0")).join("");
}
