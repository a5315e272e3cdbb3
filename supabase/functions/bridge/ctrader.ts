// cTrader, as far as connecting an account takes: the exchange of a code over HTTP, and the accounts of a
// grant over one short connection of the Open API.
//
// Four messages of protobuf, written by hand, so that the same address serves as the worker's.

import type { CtraderSettings } from "./env.ts";
import type { Account } from "./store.ts";
import { Refusal } from "./errors.ts";

const TOKEN_TIMEOUT_MS = 10_000;
const ACCOUNTS_TIMEOUT_MS = 10_000;

export interface Pair {
  accessToken: string;
  refreshToken: string;
  expiresAt: Date | null;
}

export interface Listed extends Account {
  traderLogin: string | null;
}

/** Exchanges the code, which lives for a minute and works once. */
export async function exchange(settings: CtraderSettings, code: string): Promise<Pair> {
  const url = new URL(settings.tokenUrl);
  url.search = new URLSearchParams({
    grant_type: "authorization_code",
    code,
    redirect_uri: settings.redirectUri,
    client_id: settings.clientId,
    client_secret: settings.clientSecret,
  }).toString();
  let body: Record<string, unknown>;
  try {
    const response = await fetch(url, {
      headers: { accept: "application/json" },
      redirect: "error",
      signal: AbortSignal.timeout(TOKEN_TIMEOUT_MS),
    });
    body = await response.json();
  } catch {
    // Not the cause itself: its text has the address, and that has the secret.
    throw new Refusal(503, "cTrader did not answer; begin again", { "retry-after": "5" });
  }
  const { accessToken, refreshToken, expiresIn, errorCode } = body ?? {};
  // Errors come with status 200, too.
  if (errorCode || typeof accessToken !== "string" || typeof refreshToken !== "string") {
    const said = /^[A-Z_]{1,64}$/.test(String(errorCode)) ? ` (${errorCode})` : "";
    throw new Refusal(400, `cTrader did not take the code${said}; begin again`);
  }
  const seconds = Number(expiresIn);
  return {
    accessToken,
    refreshToken,
    expiresAt: seconds > 0 ? new Date(Date.now() + seconds * 1000) : null,
  };
}

/** The accounts that the grant covers, of both environments. */
export async function accounts(settings: CtraderSettings, accessToken: string): Promise<Listed[]> {
  const socket = new WebSocket(settings.accountsUrl);
  socket.binaryType = "arraybuffer";
  let timer: ReturnType<typeof setTimeout> | undefined;
  try {
    return await new Promise<Listed[]>((resolve, reject) => {
      const away = () => reject(unavailable());
      timer = setTimeout(away, ACCOUNTS_TIMEOUT_MS);
      socket.onerror = away;
      socket.onclose = away;
      socket.onopen = () =>
        socket.send(envelope(
          APPLICATION_AUTH_REQ,
          text(2, settings.clientId),
          text(3, settings.clientSecret),
        ));
      socket.onmessage = ({ data }) => {
        try {
          const message = fields(new Uint8Array(data));
          const type = Number(message.find(([number]) => number === 1)?.[1]);
          const payload = fields(bytesOf(message, 2));
          if (type === APPLICATION_AUTH_RES) {
            socket.send(envelope(ACCOUNTS_REQ, text(2, accessToken)));
          } else if (type === ACCOUNTS_RES) {
            resolve(listed(payload));
          } else if (type === OA_ERROR_RES || type === ERROR_RES) {
            reject(refused(stringOf(payload, type === OA_ERROR_RES ? 3 : 2)));
          }
        } catch {
          away();
        }
      };
    });
  } finally {
    clearTimeout(timer);
    socket.onerror = socket.onclose = null;
    socket.close();
  }
}

function unavailable(): Refusal {
  return new Refusal(503, "cTrader did not list the accounts; begin again", { "retry-after": "5" });
}

function refused(errorCode: string): Refusal {
  const code = /^[A-Z_]{1,64}$/.test(errorCode) ? errorCode : "no code";
  return new Refusal(503, `cTrader did not list the accounts (${code}); begin again`);
}

const ERROR_RES = 50;
const APPLICATION_AUTH_REQ = 2100;
const APPLICATION_AUTH_RES = 2101;
const OA_ERROR_RES = 2142;
const ACCOUNTS_REQ = 2149;
const ACCOUNTS_RES = 2150;

/** `ctidTraderAccount` (4): `ctidTraderAccountId` (1), `isLive` (2), `traderLogin` (3). */
function listed(payload: Field[]): Listed[] {
  return payload.filter(([number]) => number === 4).map(([, value]) => {
    const account = fields(value as Uint8Array);
    const varint = (wanted: number) => account.find(([number]) => number === wanted)?.[1];
    return {
      accountId: String(varint(1)),
      isDemo: varint(2) !== 1n,
      traderLogin: varint(3) === undefined ? null : String(varint(3)),
    };
  });
}

// Protobuf: a field is a number, and a varint (wire type 0) or bytes (2); 1 and 5 are fixed and skipped.
type Field = [number: number, value: bigint | Uint8Array];

function varint(value: number): number[] {
  const bytes = [];
  for (; value > 127; value >>>= 7) bytes.push(value & 127 | 128);
  return [...bytes, value];
}

function text(number: number, value: string): number[] {
  const bytes = [...new TextEncoder().encode(value)];
  return [number << 3 | 2, ...varint(bytes.length), ...bytes];
}

/** `ProtoMessage`: `payloadType` (1), `payload` (2). */
function envelope(type: number, ...parts: number[][]) {
  const payload = parts.flat();
  return new Uint8Array([8, ...varint(type), 18, ...varint(payload.length), ...payload]);
}

function fields(bytes: Uint8Array): Field[] {
  const found: Field[] = [];
  let at = 0;
  const read = () => {
    let value = 0n;
    for (let shift = 0n;; shift += 7n) {
      const byte = bytes[at++];
      if (byte === undefined || shift > 63n) throw new Error("not protobuf");
      value |= BigInt(byte & 127) << shift;
      if (byte < 128) return value;
    }
  };
  while (at < bytes.length) {
    const tag = Number(read());
    const [number, type] = [tag >>> 3, tag & 7];
    if (type === 0) {
      found.push([number, read()]);
    } else if (type === 1 || type === 5) {
      at += type === 1 ? 8 : 4;
    } else if (type === 2) {
      const length = Number(read());
      if (at + length > bytes.length) throw new Error("not protobuf");
      found.push([number, bytes.subarray(at, at + length)]);
      at += length;
    } else {
      throw new Error("not protobuf");
    }
  }
  return found;
}

function bytesOf(message: Field[], wanted: number): Uint8Array {
  const value = message.find(([number]) => number === wanted)?.[1];
  return value instanceof Uint8Array ? value : new Uint8Array();
}

function stringOf(message: Field[], wanted: number): string {
  return new TextDecoder().decode(bytesOf(message, wanted));
}
