// Reads the settings from the environment; no other file knows the variables' names. Every problem is reported
// at once. No report contains a value, because values may be secrets.

import type { JSONWebKeySet } from "jose";

/** How the function reaches Fly's Machines API. */
export interface FlySettings {
  api: string;
  app: string;
  token: string;
  processGroup: string;
}

/** The cTrader application that users connect their accounts to. */
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

/** Lists everything that is wrong with the environment. */
export class SettingsError extends Error {
  override name = "SettingsError";

  constructor(readonly problems: string[]) {
    super(problems.join("; "));
  }
}

/** HS256 allows secrets of any length, but a short one can be guessed from a single token. */
const JWT_SECRET_BYTES_MIN = 32;

type Env = (name: string) => string | undefined;

export function readSettings(env: Env): Settings {
  const problems: string[] = [];
  // An empty variable counts as not set.
  const read = (name: string) => env(name)?.trim() || undefined;
  const readRequired = (name: string, ...others: string[]) => {
    const value = [name, ...others].map(read).find((value) => value !== undefined);
    if (value === undefined) problems.push(`${[name, ...others].join(" or ")} is not set`);
    return value ?? "";
  };
  const requireUrl = (name: string, value: string, ...protocols: string[]) => {
    if (value !== "" && !protocols.includes(protocolOf(value) ?? "")) {
      problems.push(`${name} is not a URL of ${protocols.join(" or ")}`);
    }
    return value;
  };

  const supabaseUrl = read("SUPABASE_URL");
  if (supabaseUrl !== undefined) requireUrl("SUPABASE_URL", supabaseUrl, "https:", "http:");
  const settings: Settings = {
    databaseUrl: requireUrl(
      "DATABASE_URL",
      readRequired("DATABASE_URL", "SUPABASE_DB_URL"),
      "postgres:",
      "postgresql:",
    ),
    databaseCa: read("DATABASE_CA"),
    amqpUrl: requireUrl("AMQP_URL", readRequired("AMQP_URL"), "amqp:", "amqps:"),
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
  if (settings.ctrader) {
    requireSecureUrl("CTRADER_TOKEN_URL", settings.ctrader.tokenUrl, "https:", "http:", problems);
    requireSecureUrl("CTRADER_DEMO_URL", settings.ctrader.accountsUrl, "wss:", "ws:", problems);
    requireUrl("CTRADER_CONSENT_URL", settings.ctrader.consentUrl, "https:", "http:");
    requireUrl("CTRADER_REDIRECT_URI", settings.ctrader.redirectUri, "https:", "http:");
  }
  if (settings.fly) requireSecureUrl("FLY_API_URL", settings.fly.api, "https:", "http:", problems);
  if (problems.length > 0) throw new SettingsError(problems);
  return settings;
}

function protocolOf(value: string): string | undefined {
  return URL.canParse(value) ? new URL(value).protocol : undefined;
}

/** Secrets are sent to this URL: it may be unencrypted on this machine and in Fly's private network only. */
function requireSecureUrl(name: string, value: string, safe: string, plain: string, problems: string[]) {
  const url = URL.canParse(value) ? new URL(value) : undefined;
  const isLocal = url !== undefined &&
    (["localhost", "127.0.0.1", "[::1]"].includes(url.hostname) || url.hostname.endsWith(".internal"));
  if (url?.protocol === safe || (url?.protocol === plain && isLocal)) return;
  problems.push(`${name} is not a URL of ${safe}, or of ${plain} on this machine`);
}

function readJwks(text: string | undefined, problems: string[]): JSONWebKeySet | undefined {
  if (text === undefined) return undefined;
  try {
    const value = JSON.parse(text);
    const keys = Array.isArray(value) ? value : value?.keys;
    if (Array.isArray(keys)) return { keys };
  } catch {
    // Reported below.
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
    // Reported below.
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
    // The default scope reads only, which is all the bridge does.
    scope: scope === "trading" ? "trading" : "accounts",
    consentUrl: read("CTRADER_CONSENT_URL") ??
      "https://id.ctrader.com/my/settings/openapi/grantingaccess/",
    tokenUrl: read("CTRADER_TOKEN_URL") ?? "https://openapi.ctrader.com/apps/token",
    // Either host lists the demo and the live accounts.
    accountsUrl: read("CTRADER_DEMO_URL") ?? "wss://demo.ctraderapi.com:5035",
  };
}
