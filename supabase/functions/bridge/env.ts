// Settings: the only file that knows the names of variables. Every problem is listed at once, and no
// value is repeated: values are secrets.

import type { JSONWebKeySet } from "jose";

/** How the function reaches Fly's Machines API. */
export interface FlySettings {
  api: string;
  app: string;
  token: string;
  processGroup: string;
}

/** The cTrader application, for connecting accounts. */
export interface CtraderSettings {
  clientId: string;
  clientSecret: string;
  redirectUri: string;
  scope: "accounts" | "trading";
  consentUrl: string;
  tokenUrl: string;
  accountsUrl: string;
}

export interface Settings {
  databaseUrl: string;
  databaseCa?: string;
  amqpUrl: string;
  jwks?: JSONWebKeySet;
  jwksUrl?: string;
  jwtSecret?: Uint8Array;
  origins: ReadonlySet<string>;
  tokenKey?: Uint8Array;
  fly?: FlySettings;
  ctrader?: CtraderSettings;
}

/** What is wrong with the environment. The messages name variables and never hold a value. */
export class SettingsError extends Error {
  override name = "SettingsError";

  constructor(readonly problems: string[]) {
    super(problems.join("; "));
  }
}

/** HS256 takes any length, and a short secret can be guessed from one token. */
const JWT_SECRET_BYTES_MIN = 32;

type Env = (name: string) => string | undefined;

export function readSettings(env: Env): Settings {
  const problems: string[] = [];
  // An empty variable is one that is not set.
  const read = (name: string) => env(name)?.trim() || undefined;
  const need = (name: string, ...others: string[]) => {
    const value = [name, ...others].map(read).find((value) => value !== undefined);
    if (value === undefined) problems.push(`${[name, ...others].join(" or ")} is not set`);
    return value ?? "";
  };
  const url = (name: string, value: string, ...protocols: string[]) => {
    if (value !== "" && !protocols.includes(protocolOf(value) ?? "")) {
      problems.push(`${name} is not a URL of ${protocols.join(" or ")}`);
    }
    return value;
  };

  const supabaseUrl = read("SUPABASE_URL");
  if (supabaseUrl !== undefined) url("SUPABASE_URL", supabaseUrl, "https:", "http:");
  const settings: Settings = {
    databaseUrl: url(
      "DATABASE_URL",
      need("DATABASE_URL", "SUPABASE_DB_URL"),
      "postgres:",
      "postgresql:",
    ),
    databaseCa: read("DATABASE_CA"),
    amqpUrl: url("AMQP_URL", need("AMQP_URL"), "amqp:", "amqps:"),
    jwks: readJwks(read("SUPABASE_JWKS"), problems),
    jwksUrl: supabaseUrl && `${supabaseUrl.replace(/\/+$/, "")}/auth/v1/.well-known/jwks.json`,
    jwtSecret: readJwtSecret(read("JWT_SECRET"), problems),
    origins: readOrigins(read("ALLOWED_ORIGINS"), problems),
    tokenKey: readTokenKey(read("TOKEN_ENCRYPTION_KEY"), problems),
    fly: readFly(read, problems),
    ctrader: readCtrader(read, problems),
  };
  if (!settings.jwks && !settings.jwksUrl && !settings.jwtSecret) {
    problems.push("none of SUPABASE_URL, SUPABASE_JWKS, JWT_SECRET is set: no token can be verified");
  }
  for (const [name, value] of [["CTRADER_TOKEN_URL", settings.ctrader?.tokenUrl]]) {
    if (value !== undefined) secure(name ?? "", value, "https:", "http:", problems);
  }
  if (settings.ctrader) {
    secure("CTRADER_DEMO_URL", settings.ctrader.accountsUrl, "wss:", "ws:", problems);
    url("CTRADER_CONSENT_URL", settings.ctrader.consentUrl, "https:", "http:");
    url("CTRADER_REDIRECT_URI", settings.ctrader.redirectUri, "https:", "http:");
  }
  if (settings.fly) secure("FLY_API_URL", settings.fly.api, "https:", "http:", problems);
  if (problems.length > 0) throw new SettingsError(problems);
  return settings;
}

function protocolOf(value: string): string | undefined {
  return URL.canParse(value) ? new URL(value).protocol : undefined;
}

/** Secrets go over it: unencrypted to this machine, and to Fly's own private network, only. */
function secure(name: string, value: string, safe: string, plain: string, problems: string[]) {
  const url = URL.canParse(value) ? new URL(value) : undefined;
  const near = url !== undefined &&
    (["localhost", "127.0.0.1", "[::1]"].includes(url.hostname) || url.hostname.endsWith(".internal"));
  if (url?.protocol === safe || (url?.protocol === plain && near)) return;
  problems.push(`${name} is not a URL of ${safe}, or of ${plain} on this machine`);
}

function readJwks(text: string | undefined, problems: string[]): JSONWebKeySet | undefined {
  if (text === undefined) return undefined;
  try {
    const value = JSON.parse(text);
    const keys = Array.isArray(value) ? value : value?.keys;
    if (Array.isArray(keys)) return { keys };
  } catch {
    // Said below.
  }
  problems.push("SUPABASE_JWKS is not a set of keys");
  return undefined;
}

function readJwtSecret(text: string | undefined, problems: string[]): Uint8Array | undefined {
  if (text === undefined) return undefined;
  const secret = new TextEncoder().encode(text);
  if (secret.length < JWT_SECRET_BYTES_MIN) {
    problems.push(`JWT_SECRET has less than ${JWT_SECRET_BYTES_MIN} bytes`);
  }
  return secret;
}

function readOrigins(text: string | undefined, problems: string[]): ReadonlySet<string> {
  const origins = (text ?? "").split(",").map((origin) => origin.trim()).filter((origin) => origin);
  for (const origin of origins) {
    if (origin !== "*" && (!URL.canParse(origin) || new URL(origin).origin !== origin)) {
      problems.push("ALLOWED_ORIGINS holds what is no origin (https://app.example.org)");
    }
  }
  return new Set(origins);
}

function readTokenKey(text: string | undefined, problems: string[]): Uint8Array | undefined {
  if (text === undefined) return undefined;
  try {
    const key = Uint8Array.from(atob(text), (char) => char.charCodeAt(0));
    if (key.length === 32) return key;
  } catch {
    // Said below.
  }
  problems.push("TOKEN_ENCRYPTION_KEY is not the base64 of 32 bytes");
  return undefined;
}

function readFly(read: Env, problems: string[]): FlySettings | undefined {
  const [app, token] = [read("FLY_APP"), read("FLY_API_TOKEN")];
  if (app === undefined && token === undefined) return undefined;
  if (app === undefined || token === undefined) {
    problems.push("FLY_APP and FLY_API_TOKEN belong together, and one is not set");
    return undefined;
  }
  return {
    api: (read("FLY_API_URL") ?? "https://api.machines.dev").replace(/\/+$/, ""),
    app,
    token,
    processGroup: read("FLY_PROCESS_GROUP") ?? "worker",
  };
}

function readCtrader(read: Env, problems: string[]): CtraderSettings | undefined {
  const names = ["CTRADER_CLIENT_ID", "CTRADER_CLIENT_SECRET", "CTRADER_REDIRECT_URI"];
  const [clientId, clientSecret, redirectUri] = names.map(read);
  if (clientId === undefined && clientSecret === undefined && redirectUri === undefined) {
    return undefined;
  }
  if (clientId === undefined || clientSecret === undefined || redirectUri === undefined) {
    problems.push(`${names.join(", ")} belong together, and one is not set`);
    return undefined;
  }
  const scope = read("CTRADER_SCOPE") ?? "accounts";
  if (scope !== "accounts" && scope !== "trading") {
    problems.push("CTRADER_SCOPE is neither accounts nor trading");
  }
  return {
    clientId,
    clientSecret,
    redirectUri,
    // The bridge only reads.
    scope: scope === "trading" ? "trading" : "accounts",
    consentUrl: read("CTRADER_CONSENT_URL") ??
      "https://id.ctrader.com/my/settings/openapi/grantingaccess/",
    tokenUrl: read("CTRADER_TOKEN_URL") ?? "https://openapi.ctrader.com/apps/token",
    // Either environment lists the accounts of both.
    accountsUrl: read("CTRADER_DEMO_URL") ?? "wss://demo.ctraderapi.com:5035",
  };
}
