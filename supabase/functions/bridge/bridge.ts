// The routes. Each checks who asks before it looks at anything else, and says nothing that the caller may
// not know. What fails without being a refusal is logged by its kind, and answered with 500.

import { authenticator, type Caller, mayActFor } from "./auth.ts";
import { Broker } from "./broker.ts";
import { newCommand } from "./command.ts";
import { LIFETIME_SECS, newState, openState } from "./consent.ts";
import { Deadline } from "./deadline.ts";
import { type CtraderSettings, readSettings, type Settings, SettingsError } from "./env.ts";
import { Refusal } from "./errors.ts";
import { wake } from "./fly.ts";
import { accountIdOf, answer, corsHeaders, countOf, preflight, readBody, routeOf, userIdOf } from "./http.ts";
import { seal } from "./seal.ts";
import { SESSIONS_MAX, Store } from "./store.ts";

/** All that a request waits for, so that a caller has its answer within 3 s. */
const REQUEST_MS = 2500;
/** To connect takes cTrader's answers, too, each with a limit of its own. */
const CONNECT_MS = 25_000;
/** Health asks whether the broker can be reached, and does not wait for one that is slow. */
const HEALTH_BROKER_MS = 1000;
const FLY_PAUSE_MS = 2000;

export interface Bridge {
  fetch: (request: Request) => Promise<Response>;
  /** Waits for what goes on beside the answers. */
  idle: () => Promise<void>;
  close: () => Promise<void>;
}

interface Call {
  request: Request;
  url: URL;
  caller: Caller;
  deadline: Deadline;
}

/** Answers like the function, once its environment is right; until then every request with 500. */
export function serve(
  env: (name: string) => string | undefined,
): (request: Request) => Promise<Response> {
  let bridge: Bridge | undefined;
  return async (request) => {
    try {
      bridge ??= createBridge(readSettings(env));
    } catch (error) {
      if (!(error instanceof SettingsError)) throw error;
      console.error(JSON.stringify({ event: "bad configuration", problems: error.problems }));
      return answer(500, { success: false, error: "the function is not configured" }, {});
    }
    return await bridge.fetch(request);
  };
}

export function createBridge(settings: Settings, flyPauseMs = FLY_PAUSE_MS): Bridge {
  const authenticate = authenticator(settings);
  const store = new Store(settings.databaseUrl, settings.databaseCa);
  const broker = new Broker(settings.amqpUrl);
  const background = new Set<Promise<void>>();

  /** Lets the runtime keep this isolate until it is done; never fails a request. */
  function beside(what: string, work: Promise<unknown>): void {
    const done = work.then(() => {}, (error) => log(what, error));
    background.add(done);
    done.finally(() => background.delete(done));
    const runtime = globalThis as { EdgeRuntime?: { waitUntil(work: Promise<void>): void } };
    runtime.EdgeRuntime?.waitUntil(done);
  }

  async function start({ request, caller, deadline }: Call) {
    const { userId, accountId } = await subject(request, caller);
    const account = await store.account(userId, accountId, deadline);
    const command = newCommand("start", userId, accountId);
    await broker.publish(command, deadline);
    if (settings.fly !== undefined) {
      const applied = () => store.applied(userId, command.issuedAt, new Deadline(REQUEST_MS));
      beside("wake", wake(settings.fly, { applied, pauseMs: flyPauseMs }));
    }
    return { success: true, message: "WebSocket connection started", ...account };
  }

  async function stop({ request, caller, deadline }: Call) {
    const { userId, accountId } = await subject(request, caller);
    const wasConnected = await store.isConnected(userId, accountId, deadline);
    await broker.publish(newCommand("stop", userId, accountId), deadline);
    return { success: true, message: "WebSocket connection stopped", wasConnected };
  }

  async function status({ url, caller, deadline }: Call, user: string) {
    const userId = userIdOf(decoded(user));
    mayActFor(caller, userId);
    const accountId = accountIdOf(url.searchParams.get("accountId"));
    return await store.status(userId, accountId, deadline);
  }

  async function sessions({ url, caller, deadline }: Call) {
    if (caller.kind !== "service") throw new Refusal(403, "this is for the service only");
    const limit = countOf(url.searchParams.get("limit"), "limit", SESSIONS_MAX, SESSIONS_MAX);
    const offset = countOf(url.searchParams.get("offset"), "offset", 0, 999_999_999);
    return await store.sessions(limit, offset, deadline);
  }

  async function health({ deadline }: Call) {
    const [fleet, reachable] = await Promise.all([
      store.fleet(deadline),
      broker.reachable(deadline, HEALTH_BROKER_MS),
    ]);
    const idle = fleet.wanted > 0 && fleet.workers === 0;
    return {
      status: reachable && !idle ? "ok" : "degraded",
      activeSessions: fleet.activeSessions,
      workers: fleet.workers,
      timestamp: new Date().toISOString(),
    };
  }

  async function connect({ url, caller, deadline }: Call) {
    const ctrader = configured(settings.ctrader);
    const userId = userIdOf(url.searchParams.get("userId"));
    mayActFor(caller, userId);
    const { state, hash, expiresAt } = await newState(ctrader.clientSecret, userId);
    await store.beginConsent(hash, userId, LIFETIME_SECS, deadline);
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

  async function callback({ url, caller }: Call) {
    const ctrader = configured(settings.ctrader);
    const deadline = new Deadline(CONNECT_MS);
    if (url.searchParams.has("error")) {
      throw new Refusal(400, "cTrader says that the consent was not given");
    }
    const code = url.searchParams.get("code") ?? "";
    if (!/^[\x21-\x7e]{1,2048}$/.test(code)) throw new Refusal(400, "the code is missing");
    // Whoever brings the state has to be the one it was made for: else somebody could have another
    // person consent, and get their accounts.
    const ids = caller.kind === "user"
      ? caller.ids
      : caller.kind === "service"
      ? [userIdOf(url.searchParams.get("userId"))]
      : [];
    const state = url.searchParams.get("state") ?? "";
    const { hash, userId } = await openState(ctrader.clientSecret, state, ids);
    if (!await store.takeConsent(hash, userId, deadline)) {
      throw new Refusal(409, "the state was used before, or took too long; begin again");
    }
    // Loaded here, because the protobuf library would lengthen every cold start, and few requests connect.
    const { accounts, exchange } = await import("./ctrader.ts");
    const pair = await exchange(ctrader, code);
    const listed = (await accounts(ctrader, pair.accessToken))
      // The first one becomes primary, if none is yet: live before demo.
      .sort((a, b) => Number(a.isDemo) - Number(b.isDemo) || compare(a.accountId, b.accountId));
    if (listed.length === 0) throw new Refusal(409, "the consent covers no account");
    const grant = {
      accessToken: await seal(settings.tokenKey, userId, pair.accessToken),
      refreshToken: await seal(settings.tokenKey, userId, pair.refreshToken),
      expiresAt: pair.expiresAt,
      accounts: listed,
    };
    const primary = await store.storeGrant(userId, grant, deadline);
    return {
      success: true,
      message: "cTrader connected",
      accounts: listed.map((account) => ({ ...account, isPrimary: account.accountId === primary })),
    };
  }

  async function disconnect({ request, caller, deadline }: Call) {
    const { userId } = await subject(request, caller);
    // The stop goes out while the deletion is not committed yet: without a broker nothing is forgotten, and
    // nothing is forgotten that still runs.
    const stopAll = () => broker.publish(newCommand("stop", userId, undefined), deadline);
    const forgotten = await store.forget(userId, stopAll, deadline);
    return { success: true, message: "cTrader disconnected", accounts: forgotten };
  }

  type Route = [method: string, path: RegExp, handle: (call: Call, part: string) => Promise<unknown>];
  const routes: Route[] = [
    ["POST", /^\/api\/start-websocket$/, start],
    ["POST", /^\/api\/stop-websocket$/, stop],
    ["GET", /^\/api\/websocket-status\/([^/]+)$/, status],
    ["GET", /^\/api\/sessions$/, sessions],
    ["GET", /^\/health$/, health],
    ["GET", /^\/api\/ctrader\/connect$/, connect],
    ["GET", /^\/api\/ctrader\/callback$/, callback],
    ["POST", /^\/api\/ctrader\/disconnect$/, disconnect],
  ];

  async function route(request: Request): Promise<unknown> {
    const deadline = new Deadline(REQUEST_MS);
    const caller = await deadline.wait("the token's keys", authenticate(request));
    const url = new URL(request.url);
    const path = routeOf(url);
    const here = routes.filter(([, pattern]) => pattern.test(path));
    const found = here.find(([method]) => method === request.method);
    if (found === undefined) {
      if (here.length === 0) throw new Refusal(404, "there is no such route");
      const allow = here.map(([method]) => method).join(", ");
      throw new Refusal(405, `this route takes ${allow}`, { allow });
    }
    const [, pattern, handle] = found;
    return await handle({ request, url, caller, deadline }, pattern.exec(path)?.[1] ?? "");
  }

  async function fetch(request: Request): Promise<Response> {
    const cors = corsHeaders(request, settings.origins);
    if (request.method === "OPTIONS") return preflight(cors);
    try {
      return answer(200, await route(request), cors);
    } catch (error) {
      if (error instanceof Refusal) {
        if (error.status === 503) log("unavailable", error.cause ?? error);
        const body = { success: false, error: error.message };
        return answer(error.status, body, { ...cors, ...error.headers });
      }
      log("request failed", error);
      return answer(500, { success: false, error: "the bridge has a problem of its own" }, cors);
    }
  }

  return {
    fetch,
    idle: async () => {
      while (background.size > 0) await Promise.all(background);
    },
    close: async () => {
      await Promise.all([broker.close(), store.close()]);
    },
  };
}

/** Whom the body is about, once the caller may act for them. */
async function subject(
  request: Request,
  caller: Caller,
): Promise<{ userId: string; accountId: string | undefined }> {
  // Not even the form of somebody else's id is looked at for those who may act for nobody.
  if (caller.kind === "nobody") throw new Refusal(403, "sign in first");
  const body = await readBody(request);
  const userId = userIdOf(body.userId);
  mayActFor(caller, userId);
  return { userId, accountId: accountIdOf(body.accountId) };
}

function configured(ctrader: CtraderSettings | undefined): CtraderSettings {
  if (ctrader === undefined) throw new Refusal(404, "connecting cTrader is not configured here");
  return ctrader;
}

function decoded(part: string): string {
  try {
    return decodeURIComponent(part);
  } catch {
    throw new Refusal(400, "the path is not well-formed");
  }
}

function compare(a: string, b: string): number {
  return Number(BigInt(a) - BigInt(b) > 0n) - Number(BigInt(a) - BigInt(b) < 0n);
}

/** The kind of an error and its code. Messages may hold an address, and that a password. */
function log(event: string, error: unknown): void {
  const { name, code } = (error ?? {}) as { name?: unknown; code?: unknown };
  const where = error instanceof Refusal ? error.message : undefined;
  console.error(JSON.stringify({ event, kind: name, code, where }));
}
