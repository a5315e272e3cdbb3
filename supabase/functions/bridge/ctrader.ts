// cTrader, as far as connecting an account needs it: the exchange of an authorisation code over HTTP, and the
// list of a grant's accounts over one short connection of the Open API.
//
// open_api/ is generated from proto/ by scripts/bindings; a test compares the two.

import {
  create,
  type DescMessage,
  fromBinary,
  isFieldSet,
  type MessageInitShape,
  toBinary,
} from "@bufbuild/protobuf";
import type { ConnectedAccount } from "./api.ts";
import type { CtraderSettings } from "./env.ts";
import { HttpError } from "./errors.ts";
import { ProtoErrorResSchema, ProtoMessageSchema } from "./open_api/OpenApiCommonMessages_pb.ts";
import { ProtoPayloadType } from "./open_api/OpenApiCommonModelMessages_pb.ts";
import {
  ProtoOAApplicationAuthReqSchema,
  ProtoOAErrorResSchema,
  ProtoOAGetAccountListByAccessTokenReqSchema,
  ProtoOAGetAccountListByAccessTokenResSchema,
} from "./open_api/OpenApiMessages_pb.ts";
import {
  type ProtoOACtidTraderAccount,
  ProtoOACtidTraderAccountSchema,
  ProtoOAPayloadType,
} from "./open_api/OpenApiModelMessages_pb.ts";

const TOKEN_TIMEOUT_MS = 10_000;
const ACCOUNTS_TIMEOUT_MS = 10_000;

export interface TokenPair {
  accessToken: string;
  refreshToken: string;
  expiresAt: Date | null;
}

/** An account that the user gave access to. */
export type GrantedAccount = Omit<ConnectedAccount, "isPrimary">;

/** Exchanges an authorisation code, which is valid for a minute and once, for tokens. */
export async function exchangeCode(settings: CtraderSettings, code: string): Promise<TokenPair> {
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
    // The cause is left out: its text contains the URL, and the URL contains the secret.
    throw new HttpError(503, "cTrader did not answer; begin again", { "retry-after": "5" });
  }
  const { accessToken, refreshToken, expiresIn, errorCode } = body ?? {};
  // cTrader sends errors with status 200, too.
  if (errorCode || typeof accessToken !== "string" || typeof refreshToken !== "string") {
    const detail = /^[A-Z_]{1,64}$/.test(String(errorCode)) ? ` (${errorCode})` : "";
    throw new HttpError(400, `cTrader did not take the code${detail}; begin again`);
  }
  const seconds = Number(expiresIn);
  return {
    accessToken,
    refreshToken,
    expiresAt: seconds > 0 ? new Date(Date.now() + seconds * 1000) : null,
  };
}

/** Returns the accounts that the user gave access to, demo and live ones. */
export async function listAccounts(
  settings: CtraderSettings,
  accessToken: string,
): Promise<GrantedAccount[]> {
  const socket = new WebSocket(settings.accountsUrl);
  socket.binaryType = "arraybuffer";
  let timer: ReturnType<typeof setTimeout> | undefined;
  try {
    return await new Promise<GrantedAccount[]>((resolve, reject) => {
      const fail = () => reject(unavailable());
      timer = setTimeout(fail, ACCOUNTS_TIMEOUT_MS);
      socket.onerror = fail;
      socket.onclose = fail;
      socket.onopen = () =>
        socket.send(encode(
          ProtoOAPayloadType.PROTO_OA_APPLICATION_AUTH_REQ,
          ProtoOAApplicationAuthReqSchema,
          { clientId: settings.clientId, clientSecret: settings.clientSecret },
        ));
      socket.onmessage = ({ data }) => {
        try {
          const { payloadType, payload } = fromBinary(ProtoMessageSchema, new Uint8Array(data));
          switch (payloadType) {
            case ProtoOAPayloadType.PROTO_OA_APPLICATION_AUTH_RES:
              socket.send(encode(
                ProtoOAPayloadType.PROTO_OA_GET_ACCOUNTS_BY_ACCESS_TOKEN_REQ,
                ProtoOAGetAccountListByAccessTokenReqSchema,
                { accessToken },
              ));
              break;
            case ProtoOAPayloadType.PROTO_OA_GET_ACCOUNTS_BY_ACCESS_TOKEN_RES: {
              const list = fromBinary(ProtoOAGetAccountListByAccessTokenResSchema, payload);
              resolve(list.ctidTraderAccount.map(grantedAccount));
              break;
            }
            case ProtoOAPayloadType.PROTO_OA_ERROR_RES:
              reject(rejected(fromBinary(ProtoOAErrorResSchema, payload).errorCode));
              break;
            case ProtoPayloadType.ERROR_RES:
              reject(rejected(fromBinary(ProtoErrorResSchema, payload).errorCode));
          }
        } catch {
          fail();
        }
      };
    });
  } finally {
    clearTimeout(timer);
    socket.onerror = socket.onclose = null;
    socket.close();
  }
}

/** Returns a frame: the message in a `ProtoMessage`. */
function encode<Desc extends DescMessage>(
  payloadType: ProtoOAPayloadType,
  schema: Desc,
  fields: MessageInitShape<Desc>,
) {
  const payload = toBinary(schema, create(schema, fields));
  return toBinary(ProtoMessageSchema, create(ProtoMessageSchema, { payloadType, payload }));
}

function grantedAccount(account: ProtoOACtidTraderAccount): GrantedAccount {
  const hasLogin = isFieldSet(account, ProtoOACtidTraderAccountSchema.field.traderLogin);
  return {
    accountId: String(account.ctidTraderAccountId),
    isDemo: !account.isLive,
    traderLogin: hasLogin ? String(account.traderLogin) : null,
  };
}

function unavailable(): HttpError {
  return new HttpError(503, "cTrader did not list the accounts; begin again", { "retry-after": "5" });
}

function rejected(errorCode: string): HttpError {
  const code = /^[A-Z_]{1,64}$/.test(errorCode) ? errorCode : "no code";
  return new HttpError(503, `cTrader did not list the accounts (${code}); begin again`);
}
