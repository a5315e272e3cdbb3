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
import type { CtraderSettings } from "./env.ts";
import { Refusal } from "./errors.ts";
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
import type { Account } from "./store.ts";

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
              resolve(list.ctidTraderAccount.map(listed));
              break;
            }
            case ProtoOAPayloadType.PROTO_OA_ERROR_RES:
              reject(refused(fromBinary(ProtoOAErrorResSchema, payload).errorCode));
              break;
            case ProtoPayloadType.ERROR_RES:
              reject(refused(fromBinary(ProtoErrorResSchema, payload).errorCode));
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

/** A frame: the message in cTrader's envelope. */
function encode<Desc extends DescMessage>(
  payloadType: ProtoOAPayloadType,
  schema: Desc,
  fields: MessageInitShape<Desc>,
) {
  const payload = toBinary(schema, create(schema, fields));
  return toBinary(ProtoMessageSchema, create(ProtoMessageSchema, { payloadType, payload }));
}

function listed(account: ProtoOACtidTraderAccount): Listed {
  const hasLogin = isFieldSet(account, ProtoOACtidTraderAccountSchema.field.traderLogin);
  return {
    accountId: String(account.ctidTraderAccountId),
    isDemo: !account.isLive,
    traderLogin: hasLogin ? String(account.traderLogin) : null,
  };
}

function unavailable(): Refusal {
  return new Refusal(503, "cTrader did not list the accounts; begin again", { "retry-after": "5" });
}

function refused(errorCode: string): Refusal {
  const code = /^[A-Z_]{1,64}$/.test(errorCode) ? errorCode : "no code";
  return new Refusal(503, `cTrader did not list the accounts (${code}); begin again`);
}
