// Connecting cTrader: the consent, the exchange of the code, the account list of the simulated cTrader, a start
// command that the real worker applies, and disconnecting.

import assert from "node:assert/strict";
import { LANCE, OTHER, sign, type Simulator, test, type World } from "./support/world.ts";
import { eventually } from "./support/services.ts";

const KEY = btoa(String.fromCharCode(...Uint8Array.from({ length: 32 }, (_, at) => at + 1)));

/** A fake of cTrader's token endpoint, where each code works once. */
function tokenEndpoint(world: World, sim: Pick<Simulator, "clientId" | "clientSecret">) {
  const codes = new Map<string, Record<string, unknown>>();
  const requests: URLSearchParams[] = [];
  const server = Deno.serve({ hostname: "127.0.0.1", port: 0, onListen: () => {} }, (request) => {
    const query = new URL(request.url).searchParams;
    requests.push(query);
    const pair = codes.get(query.get("code") ?? "");
    codes.delete(query.get("code") ?? "");
    const right = query.get("grant_type") === "authorization_code" &&
      query.get("redirect_uri") === "https://app.example.org/connected" &&
      query.get("client_id") === sim.clientId && query.get("client_secret") === sim.clientSecret;
    // cTrader sends errors with status 200.
    return Response.json(
      right && pair ? pair : { errorCode: "ACCESS_DENIED", description: "secret details" },
    );
  });
  world.onClose(() => server.shutdown());
  const url = `http://127.0.0.1:${server.addr.port}/apps/token`;
  const addCode = (code: string, token: string) =>
    codes.set(code, {
      accessToken: token,
      refreshToken: `refresh-${token}`,
      tokenType: "bearer",
      expiresIn: 2_628_000,
    });
  return { url, addCode, requests };
}

async function begin(world: World, token: string, userId: string): Promise<string> {
  const path = `/api/ctrader/connect?userId=${encodeURIComponent(userId)}`;
  const { status, body, text } = await world.call("GET", path, { token });
  assert.equal(status, 200, text);
  const url = new URL(String(body.url));
  assert.equal(url.searchParams.get("state"), body.state);
  assert.ok(!url.href.includes(encodeURIComponent(userId)), "cTrader learns no user id");
  return String(body.state);
}

function finish(world: World, token: string, code: string, state: string) {
  const query = new URLSearchParams({ code, state });
  return world.call("GET", `/api/ctrader/callback?${query}`, { token });
}

async function ready(world: World, variables: Record<string, string> = {}) {
  const sim = await world.simulator();
  const endpoint = tokenEndpoint(world, sim);
  await world.serve({
    CTRADER_CLIENT_ID: sim.clientId,
    CTRADER_CLIENT_SECRET: sim.clientSecret,
    CTRADER_REDIRECT_URI: "https://app.example.org/connected",
    CTRADER_TOKEN_URL: endpoint.url,
    CTRADER_DEMO_URL: sim.demoUrl,
    ...variables,
  });
  return { sim, endpoint, token: await sign(LANCE) };
}

test("from the consent to a live row by the real worker, with sealed tokens, and back", async (world) => {
  const { sim, endpoint, token } = await ready(world, { TOKEN_ENCRYPTION_KEY: KEY });
  const userId = LANCE.email;
  endpoint.addCode("code-1", "token-a");
  const state = await begin(world, token, userId);
  const connected = await finish(world, token, "code-1", state);
  assert.equal(connected.status, 200, connected.text);
  const { accounts, ...rest } = connected.body as { accounts: Record<string, unknown>[] };
  assert.deepEqual(rest, { success: true, message: "cTrader connected" });
  assert.deepEqual(accounts.map(({ traderLogin: _, ...account }) => account), [
    { accountId: "1002", isDemo: false, isPrimary: true },
    { accountId: "1001", isDemo: true, isPrimary: false },
  ]);
  const rows = await world.sql`select * from bridge.credentials order by account_id`;
  assert.equal(rows.length, 2);
  for (const row of rows) {
    assert.match(`${row.access_token} ${row.refresh_token}`, /^enc:v1:\S+ enc:v1:\S+$/);
    const days = ((row.expires_at as Date).getTime() - Date.now()) / 86_400_000;
    assert.ok(days > 30 && days < 31, `${days} days`);
  }

  await world.worker(sim, { TOKEN_ENCRYPTION_KEY: KEY });
  const body = { userId };
  const started = await world.call("POST", "/api/start-websocket", { token, body });
  assert.deepEqual([started.status, started.body.accountId, started.body.isDemo], [200, "1002", false]);
  const path = `/api/websocket-status/${encodeURIComponent(userId)}`;
  const live = await eventually("the row to be live", async () => {
    const { body } = await world.call("GET", path, { token });
    return body.connected === true && typeof body.equity === "number" && body;
  });
  assert.equal(live.accountId, "1002");
  assert.ok(Number(live.balance) > 0);
  const health = await world.call("GET", "/health", { token });
  assert.deepEqual([health.body.status, health.body.activeSessions, health.body.workers], ["ok", 1, 1]);

  const gone = await world.call("POST", "/api/ctrader/disconnect", { token, body });
  assert.deepEqual([gone.status, gone.body], [200, {
    success: true,
    message: "cTrader disconnected",
    accounts: 2,
  }]);
  await eventually("the session to be stopped", async () => {
    const [session] = await world.sql`select desired, status from bridge.sessions`;
    return session?.desired === "stopped" && session.status === "stopped";
  });
  const after = await world.call("GET", path, { token });
  assert.equal(after.body.connected, false);
  assert.equal((await world.sql`select 1 from bridge.credentials`).length, 0, "the tokens are forgotten");
  assert.equal((await world.call("POST", "/api/start-websocket", { token, body })).status, 404);
});

test("a state works once, for whoever began, while it lasts, and the code is not spent before", async (world) => {
  const { endpoint, token } = await ready(world);
  endpoint.addCode("code-1", "token-a");
  const state = await begin(world, token, LANCE.email);
  const other = await sign(OTHER);
  assert.equal((await finish(world, other, "code-1", state)).status, 403);
  assert.equal((await finish(world, token, "code-1", `${state.slice(0, -1)}!`)).status, 400);
  await world.sql`update bridge.oauth_states set expires_at = now() - interval '1 second'`;
  assert.equal((await finish(world, token, "code-1", state)).status, 409);
  assert.equal(endpoint.requests.length, 0, "no code was spent on any of these");

  const second = await begin(world, token, LANCE.email);
  const [one, two] = await Promise.all([
    finish(world, token, "code-1", second),
    finish(world, token, "code-1", second),
  ]);
  assert.deepEqual([one.status, two.status].sort(), [200, 409], "of two at once, one");
  assert.equal((await finish(world, token, "code-1", second)).status, 409, "replayed");
  assert.equal(endpoint.requests.length, 1);
});

test("a code that cTrader rejects gives its error code, without the details", async (world) => {
  const { token } = await ready(world);
  const state = await begin(world, token, LANCE.email);
  const answer = await finish(world, token, "spent", state);
  assert.equal(answer.status, 400);
  assert.match(answer.text, /ACCESS_DENIED/);
  assert.doesNotMatch(answer.text, /details|sim-client|secret/);
  const denied = await world.call("GET", "/api/ctrader/callback?error=access_denied", { token });
  assert.equal(denied.status, 400);
  assert.equal((await world.sql`select 1 from bridge.credentials`).length, 0);
});

test("a grant that cTrader does not know stores nothing", async (world) => {
  const { endpoint, token } = await ready(world);
  endpoint.addCode("code-1", "token-of-nobody");
  const answer = await finish(world, token, "code-1", await begin(world, token, LANCE.email));
  assert.equal(answer.status, 503, answer.text);
  assert.equal((await world.sql`select 1 from bridge.credentials`).length, 0);
});

test("connecting again renews the tokens and keeps the primary account", async (world) => {
  const { endpoint, token } = await ready(world);
  await world.connect(LANCE.email, 1001, { token: "old" });
  await world.connect(LANCE.email, 7, { live: true, primary: false, token: "another-grant" });
  endpoint.addCode("code-1", "token-a");
  const answer = await finish(world, token, "code-1", await begin(world, token, LANCE.email));
  assert.equal(answer.status, 200, answer.text);
  const rows = await world.sql`select account_id::int as id, is_live, is_primary, access_token
    from bridge.credentials order by 1`;
  assert.deepEqual(rows.map((row) => Object.values(row)), [
    [7, true, false, "another-grant"],
    [1001, false, true, "token-a"],
    [1002, true, false, "token-a"],
  ]);
});

test("a user has a few consents under way at most", async (world) => {
  const { token } = await ready(world);
  const states = [];
  for (let n = 0; n < 8; n++) states.push(await begin(world, token, LANCE.email));
  const [{ left } = { left: 0 }] = await world.sql`select count(*)::int as left from bridge.oauth_states`;
  assert.equal(left, 5);
  assert.equal((await finish(world, token, "c", String(states[0]))).status, 409, "the oldest went");
});

test("without a cTrader application there is nothing to connect", async (world) => {
  await world.serve();
  const answer = await world.call("GET", `/api/ctrader/connect?userId=${LANCE.email}`, {
    token: await sign(LANCE),
  });
  assert.equal(answer.status, 404);
});
