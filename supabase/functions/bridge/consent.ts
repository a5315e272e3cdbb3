// The state of a consent: signed, bound to its user, good once and for ten minutes.
//
// It names nobody, since cTrader sees it. Who it is for is part of what is signed: the callback tries the
// ids of whoever brings it, so that somebody else's state fails before the database is asked.

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
  const nonce = base64url(crypto.getRandomValues(new Uint8Array(24)));
  const ends = Math.floor(now / 1000) + LIFETIME_SECS;
  const tag = base64url(await sign(secret, nonce, ends, userId));
  return {
    state: `${nonce}.${ends}.${tag}`,
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
  const parts = /^([\w-]{32})\.(\d{10,12})\.([\w-]{43})$/.exec(state);
  const [nonce, ends, tag] = parts?.slice(1) ?? [];
  if (nonce === undefined || ends === undefined || tag === undefined) {
    throw new Refusal(400, "the state is not one of ours");
  }
  for (const userId of userIds) {
    const right = await sign(secret, nonce, Number(ends), userId);
    if (!same(right, tag)) continue;
    if (Number(ends) * 1000 < now) throw new Refusal(400, "the consent took too long; begin again");
    return { hash: await hashOf(nonce), userId };
  }
  throw new Refusal(403, "the state is not one of yours");
}

async function sign(
  secret: string,
  nonce: string,
  ends: number,
  userId: string,
): Promise<Uint8Array> {
  const key = await crypto.subtle.importKey(
    "raw",
    encoder.encode(secret),
    { name: "HMAC", hash: "SHA-256" },
    false,
    ["sign"],
  );
  const text = `mahspeccy-bridge consent v1\n${nonce}\n${ends}\n${userId}`;
  return new Uint8Array(await crypto.subtle.sign("HMAC", key, encoder.encode(text)));
}

/** In the same time wherever they differ. */
function same(right: Uint8Array, tag: string): boolean {
  const expected = base64url(right);
  let differing = expected.length ^ tag.length;
  for (let at = 0; at < expected.length; at++) {
    differing |= expected.charCodeAt(at) ^ tag.charCodeAt(at);
  }
  return differing === 0;
}

async function hashOf(nonce: string): Promise<string> {
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", encoder.encode(nonce)));
  return Array.from(digest, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

function base64url(bytes: Uint8Array): string {
  return btoa(String.fromCharCode(...bytes))
    .replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "");
}
