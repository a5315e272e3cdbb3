// The routes. Each route checks the caller before it looks at anything else, and a response contains nothing
// that the caller may not know. Unexpected errors are logged by their kind only, and answered with 500.
//
// There is no router library. hono answers HEAD like GET and a wrong method with 404, and it accepts a malformed
// path and the preflight of a refused origin. Correcting that would take more code than the table of routes.

import type {
  Connected,
  ConsentBegun,
  Disconnected,
  Failed,
  Health,
  Sessions,
  Started,
  Stopped,
  StreamRequest,
  WebSocketStatus,
} from "./api.ts";
import { authenticator, type Caller, requireMayActFor } from "./auth.ts";
import { newCommand } from "./command.ts";
import { createState, STATE_LIFETIME_SECS, verifyState } from "./consent.ts";
import { Deadline } from "./deadline.ts";
import { type CtraderSettings, readSettings, type Settings, SettingsError } from "./env.ts";
import { HttpError } from "./errors.ts";
import { startMachine } from "./fly.ts";
import {
  corsHeaders,
  jsonResponse,
  parseAccountId,
  parseCount,
  parseUserId,
  preflightResponse,
  readJsonObject,
  routePath,
} from "./http.ts";
import { CommandPublisher } from "./publisher.ts";
import { seal } from "./seal.ts";
import { SESSIONS_MAX, Store } from "./store.ts";

/** The time for everything that a request waits for, so that a response takes less than 3 s. */
const REQUEST_MS = 2500;
/** Connecting also waits for cTrader, where each call has a timeout of its own. */
const CONNECT_MS = 25_000;
/** `/health` does not wait longer for the broker. */
const HEALTH_BROKER_MS = 1000;
const FLY_POLL_MS = 2000;

export interface Bridge {
  fetch: (request: Request) => Promise<Response>;
  /** Resolves once no background work is left. */
  idle: () => Promise<void>;
  close: () => Promise<void>;
}

interface RequestContext {
  request: Request;
  url: URL;
  caller: Caller;
  deadline: Deadline;
}

/** Returns the function's request handler. It answers 500 for as long as the environment is not valid. */
export function createHandler(
  env: (name: string) => string | undefined,
): (request: Request) => Promise<Response> {
  let bridge: Bridge | undefined;
  return async (request) => {
    try {
      bridge ??= createBridge(readSettings(env));
    } catch (error) {
      if (!(error instanceof SettingsError)) throw error;
      console.error(JSON.stringify({ event: "bad configuration", problems: error.problems }));
      return jsonResponse(500, failed("the function is not configured"), {});
    }
    return await bridge.fetch(request);
  };
}

export function createBridge(settings: Settings, flyPollMs = FLY_POLL_MS): Bridge {
  const authenticate = authenticator(settings);
  const store = new Store(settings.databaseUrl, settings.databaseCa);
  const publisher = new CommandPublisher(settings.amqpUrl);
  const background = new Set<Promise<void>>();

  /** Lets the runtime keep this isolate until the work is done. An error is logged under the event's name. */
  function runInBackground(event: string, work: Promise<unknown>): void {
    const done = work.then(() => {}, (error) => logError(event, error));
    background.add(done);
    done.finally(() => background.delete(done));
    const runtime = globalThis as { EdgeRuntime?: { waitUntil(work: Promise<void>): void } };
    runtime.EdgeRuntime?.waitUntil(done);
  }

  async function start({ request, caller, deadline }: RequestContext): Promise<Started> {
    const { userId, accountId } = await readUserRequest(request, caller);
    const account = await store.resolveAccount(userId, accountId, deadline);
    const command = newCommand("start", userId, accountId);
    await publisher.publish(command, deadline);
    if (settings.fly !== undefined) {
      const isApplied = () => store.isApplied(userId, command.issuedAt, new Deadline(REQUEST_MS));
      runInBackground("wake", startMachine(settings.fly, { isApplied, pollMs: flyPollMs }));
    }
    return { success: true, message: "WebSocket connection started", ...account };
  }

  async function stop({ request, caller, deadline }: RequestContext): Promise<Stopped> {
    const { userId, accountId } = await readUserRequest(request, caller);
    const wasConnected = await store.isConnected(userId, accountId, deadline);
    await publisher.publish(newCommand("stop", userId, accountId), deadline);
    return { success: true, message: "WebSocket connection stopped", wasConnected };
  }

  async function status(
    { url, caller, deadline }: RequestContext,
    userSegment: string,
  ): Promise<WebSocketStatus> {
    const userId = parseUserId(decodeSegment(userSegment));
    requireMayActFor(caller, userId);
    const accountId = parseAccountId(url.searchParams.get("accountId"));
    return await store.status(userId, accountId, deadline);
  }

  async function sessions({ url, caller, deadline }: RequestContext): Promise<Sessions> {
    if (caller.kind !== "service") throw new HttpError(403, "this is for the service only");
    const limit = parseCount(url.searchParams.get("limit"), "limit", SESSIONS_MAX, SESSIONS_MAX);
    const offset = parseCount(url.searchParams.get("offset"), "offset", 0, 999_999_999);
    return await store.sessions(limit, offset, deadline);
  }

  async function health({ deadline }: RequestContext): Promise<Health> {
    const [fleet, isBrokerReachable] = await Promise.all([
      store.fleet(deadline),
      publisher.isReachable(deadline, HEALTH_BROKER_MS),
    ]);
    const lacksWorkers = fleet.wanted > 0 && fleet.workers === 0;
    return {
      status: isBrokerReachable && !lacksWorkers ? "ok" : "degraded",
      activeSessions: fleet.activeSessions,
      workers: fleet.workers,
      timestamp: new Date().toISOString(),
    };
  }

  async function connect({ url, caller, deadline }: RequestContext): Promise<ConsentBegun> {
    const ctrader = requireCtrader(settings.ctrader);
    const userId = parseUserId(url.searchParams.get("userId"));
    requireMayActFor(caller, userId);
    const { state, hash, expiresAt } = await createState(ctrader.clientSecret, userId);
    await store.saveConsent(hash, userId, STATE_LIFETIME_SECS, deadline);
    const consent = new URL(ctrader.consentUrl);
    const query = {
      client_id: ctrader.clientId,
      redirect_uri: ctrader.redirectUri,
      scope: ctrader.scope,
      product: "web",
      state,
    };
    for (const [name, value] of Object.entries(query)) consent.searchParams.set(name, value);
    return { success: true, url: consent.href, state, expiresAt: expiresAt.toISOString() };
  }

  async function callback({ url, caller }: RequestContext): Promise<Connected> {
    const ctrader = requireCtrader(settings.ctrader);
    const deadline = new Deadline(CONNECT_MS);
    if (url.searchParams.has("error")) {
      throw new HttpError(400, "cTrader says that the consent was not given");
    }
    const code = url.searchParams.get("code") ?? "";
    if (!/^[\x21-\x7e]{1,2048}$/.test(code)) throw new HttpError(400, "the code is missing");
    // The caller has to be the user that the state was made for. Otherwise somebody could send their own
    // consent's link to another person, and get that person's accounts.
    const ids = caller.kind === "user"
      ? caller.ids
      : caller.kind === "service"
      ? [parseUserId(url.searchParams.get("userId"))]
      : [];
    const state = url.searchParams.get("state") ?? "";
    const { hash, userId } = await verifyState(ctrader.clientSecret, state, ids);
    // Loaded here, because the protobuf library would lengthen every cold start, and few requests connect; and before
    // the state is consumed, so that a failure to load costs no consent.
    const { exchangeCode, listAccounts } = await import("./ctrader.ts");
    if (!await store.consumeConsent(hash, userId, deadline)) {
      throw new HttpError(409, "the state was used before, or took too long; begin again");
    }
    const tokens = await exchangeCode(ctrader, code);
    const accounts = (await listAccounts(ctrader, tokens.accessToken))
      // The first account becomes primary, if the user has no primary one yet: live accounts before demo ones.
      .sort((a, b) => Number(a.isDemo) - Number(b.isDemo) || compareIds(a.accountId, b.accountId));
    if (accounts.length === 0) throw new HttpError(409, "the consent covers no account");
    const grant = {
      accessToken: await seal(settings.tokenKey, userId, tokens.accessToken),
      refreshToken: await seal(settings.tokenKey, userId, tokens.refreshToken),
      expiresAt: tokens.expiresAt,
      accounts,
    };
    const primary = await store.saveGrant(userId, grant, deadline);
    return {
      success: true,
      message: "cTrader connected",
      accounts: accounts.map((account) => ({ ...account, isPrimary: account.accountId === primary })),
    };
  }

  async function disconnect({ request, caller, deadline }: RequestContext): Promise<Disconnected> {
    const { userId } = await readUserRequest(request, caller);
    // The stop command is published inside the transaction that deletes the grants. So grants are not deleted
    // without a broker, and no stream is left running without a grant.
    const stopAll = () => publisher.publish(newCommand("stop", userId, undefined), deadline);
    const deleted = await store.deleteGrants(userId, stopAll, deadline);
    return { success: true, message: "cTrader disconnected", accounts: deleted };
  }

  type Handler = (context: RequestContext, segment: string) => Promise<unknown>;
  const routes: [method: string, path: RegExp, handle: Handler][] = [
    ["POST", /^\/api\/start-websocket$/, start],
    ["POST", /^\/api\/stop-websocket$/, stop],
    ["GET", /^\/api\/websocket-status\/([^/]+)$/, status],
    ["GET", /^\/api\/sessions$/, sessions],
    ["GET", /^\/health$/, health],
    ["GET", /^\/api\/ctrader\/connect$/, connect],
    ["GET", /^\/api\/ctrader\/callback$/, callback],
    ["POST", /^\/api\/ctrader\/disconnect$/, disconnect],
  ];

  async function handle(request: Request): Promise<unknown> {
    const deadline = new Deadline(REQUEST_MS);
    const caller = await deadline.wait("the token's keys", authenticate(request));
    const url = new URL(request.url);
    const path = routePath(url);
    const matching = routes.filter(([, pattern]) => pattern.test(path));
    const route = matching.find(([method]) => method === request.method);
    if (route === undefined) {
      if (matching.length === 0) throw new HttpError(404, "there is no such route");
      const allow = matching.map(([method]) => method).join(", ");
      throw new HttpError(405, `this route takes ${allow}`, { allow });
    }
    const [, pattern, handler] = route;
    return await handler({ request, url, caller, deadline }, pattern.exec(path)?.[1] ?? "");
  }

  async function fetch(request: Request): Promise<Response> {
    const cors = corsHeaders(request, settings.origins);
    if (request.method === "OPTIONS") return preflightResponse(cors);
    try {
      return jsonResponse(200, await handle(request), cors);
    } catch (error) {
      if (error instanceof HttpError) {
        if (error.status === 503) logError("unavailable", error.cause ?? error);
        return jsonResponse(error.status, failed(error.message), { ...cors, ...error.headers });
      }
      logError("request failed", error);
      return jsonResponse(500, failed("the bridge has a problem of its own"), cors);
    }
  }

  return {
    fetch,
    idle: async () => {
      while (background.size > 0) await Promise.all(background);
    },
    close: async () => {
      await Promise.all([publisher.close(), store.close()]);
    },
  };
}

/** Returns the user and the account that the body names, if the caller may act for that user. */
async function readUserRequest(
  request: Request,
  caller: Caller,
): Promise<{ userId: string; accountId: string | undefined }> {
  // A caller who may act for nobody is refused before the body is read.
  if (caller.kind === "anonymous") throw new HttpError(403, "sign in first");
  const body: { [Field in keyof StreamRequest]?: unknown } = await readJsonObject(request);
  const userId = parseUserId(body.userId);
  requireMayActFor(caller, userId);
  return { userId, accountId: parseAccountId(body.accountId) };
}

function failed(error: string): Failed {
  return { success: false, error };
}

function requireCtrader(ctrader: CtraderSettings | undefined): CtraderSettings {
  if (ctrader === undefined) throw new HttpError(404, "connecting cTrader is not configured here");
  return ctrader;
}

function decodeSegment(segment: string): string {
  try {
    return decodeURIComponent(segment);
  } catch {
    throw new HttpError(400, "the path is not well-formed");
  }
}

function compareIds(a: string, b: string): number {
  return Number(BigInt(a) - BigInt(b) > 0n) - Number(BigInt(a) - BigInt(b) < 0n);
}

/** Logs an error's kind and code. Its message is left out: it may contain a URL with a password. */
function logError(event: string, error: unknown): void {
  const { name, code } = (error ?? {}) as { name?: unknown; code?: unknown };
  const where = error instanceof HttpError ? error.message : undefined;
  console.error(JSON.stringify({ event, kind: name, code, where }));
}
