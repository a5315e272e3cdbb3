// The browser module with Supabase's own client, against the real function and a fake Realtime that gets its
// changes by logical replication and applies the tables' row-level security.

import assert from "node:assert/strict";
import { createClient } from "@supabase/supabase-js";
import { startFakeSupabase } from "../../../examples/dashboard/fake_supabase.ts";
import { eventually } from "../../../supabase/functions/tests/support/services.ts";
import {
  JWT_SECRET,
  LANCE,
  OTHER,
  sign,
  test,
  type World,
} from "../../../supabase/functions/tests/support/world.ts";
import {
  BridgeError,
  type CacheRow,
  configureWebSocketBridge,
  createWebSocketBridge,
  getWebSocketStatus,
  startWebSocket,
  stopWebSocket,
  userKey,
  watchCache,
  type WatchState,
} from "../src/websocket-bridge.ts";

const POLL_MS = 100;
const STALE_MS = 600;

async function ready(world: World, who = LANCE, staleMs = STALE_MS) {
  await world.topology();
  const bridge = await world.serve();
  const server = await startFakeSupabase({
    databaseUrl: world.databaseUrl,
    jwtSecret: JWT_SECRET,
    apiKey: await sign({ role: "anon" }, { alg: "HS256" }),
    bridge: bridge.fetch,
    page: false,
  });
  world.onClose(() => server.close());
  const token = await sign(who, { alg: "HS256" });
  const accessToken = () => Promise.resolve(token);
  const apiKey = "the-anon-key";
  const supabase = createClient(server.origin, apiKey, {
    accessToken,
    realtime: { reconnectAfterMs: () => 50 },
  });
  world.onClose(async () => {
    await supabase.removeAllChannels();
    await supabase.realtime.disconnect();
  });
  const options = { url: server.origin, apiKey, supabase, accessToken, pollMs: POLL_MS, staleMs };
  return { server, options };
}

function watch(world: World, options: Parameters<typeof createWebSocketBridge>[0], userId: string) {
  const [rows, states]: [CacheRow[], WatchState[]] = [[], []];
  const watching = createWebSocketBridge(options).watchCache(userId, (row) => rows.push(row), {
    onState: (state) => states.push(state),
  });
  world.onClose(() => watching.stop());
  return { rows, states, watching };
}

test("an existing row comes at once, each change over Realtime, and no row of another user", async (world) => {
  // Rows become stale so late that nothing is polled while Realtime works: every row comes over Realtime.
  const { server, options } = await ready(world, LANCE, 600_000);
  assert.ok(server.realtime, "the tests' server has wal_level = logical");
  await world.row(LANCE.email, 1, { equity: 1 });
  const { rows, watching } = watch(world, options, LANCE.email);
  await eventually("the first row", () => rows.length > 0);
  await eventually("Realtime", () => watching.state.via === "realtime");
  assert.equal(rows[0]?.user_key, await userKey(LANCE.email));
  for (let equity = 2; equity <= 6; equity++) {
    await world.row(OTHER.email, 1, { equity: 31337 });
    await world.row(LANCE.email, 1, { equity });
    await eventually(`equity ${equity}`, () => rows.at(-1)?.equity === equity);
  }
  assert.equal(typeof rows.at(-1)?.balance, "number");
  assert.ok(Array.isArray(rows.at(-1)?.positions));
  assert.ok(rows.every((row) => row.equity !== 31337));
  const order = rows.map((row) => row.seq);
  assert.deepEqual(order, [...new Set(order)].sort((a, b) => a - b), "each once, and in order");
});

test("whoever watches another user sees nothing, over Realtime or by polling", async (world) => {
  const { server, options } = await ready(world, OTHER);
  await world.row(LANCE.email, 1);
  const { rows, watching } = watch(world, options, LANCE.email);
  const { rows: own } = watch(world, options, OTHER.email);
  await eventually("both channels", () => server.realtime?.channelCount === 2);
  assert.equal(watching.state.via, "realtime");
  for (let n = 0; n < 3; n++) await world.row(LANCE.email, 1, { equity: n });
  // This row is written after the others: once it has arrived, the others have been filtered.
  await world.row(OTHER.email, 2, { equity: 5 });
  await eventually("one's own row", () => own.at(-1)?.equity === 5);
  assert.deepEqual(rows, []);
});

test("while Realtime is down rows are polled, and it is used again once it is back", async (world) => {
  const { server, options } = await ready(world);
  await world.row(LANCE.email, 1);
  const { rows, watching } = watch(world, options, LANCE.email);
  await eventually("Realtime", () => watching.state.via === "realtime");
  server.realtime?.setDown(true);
  await eventually("polling", () => watching.state.via === "polling");
  await world.row(LANCE.email, 1, { equity: 42 });
  await eventually("the change", () => rows.at(-1)?.equity === 42);
  server.realtime?.setDown(false);
  await eventually("Realtime again", () => watching.state.via === "realtime");
  await world.row(LANCE.email, 1, { equity: 43 });
  await eventually("the next change", () => rows.at(-1)?.equity === 43);
});

test("a connected row that is not written any more is stale, until it is written again", async (world) => {
  const { options } = await ready(world);
  await world.row(LANCE.email, 1);
  const { rows, watching, states } = watch(world, options, LANCE.email);
  await eventually("stale", () => watching.state.stale);
  await world.row(LANCE.email, 1);
  await eventually("fresh", () => !watching.state.stale);
  await world.row(LANCE.email, 1, { connected: false });
  await eventually("the end of the stream", () => rows.at(-1)?.is_connected === false);
  const seen = states.length;
  const quietUntil = performance.now() + 2 * STALE_MS;
  await eventually("longer than it takes to become stale", () => performance.now() > quietUntil);
  assert.ok(states.slice(seen).every((state) => !state.stale), "what does not stream does not become stale");
});

test("a failed read is reported in the state, and so is the recovery", async (world) => {
  const { options } = await ready(world);
  const { watching } = watch(world, options, LANCE.email);
  await world.sql`revoke select on public.ctrader_cache from authenticated`;
  await eventually("an error", () => watching.state.error !== null);
  await world.sql`grant select on public.ctrader_cache to authenticated`;
  await eventually("no error", () => watching.state.error === null);
});

test("the functions start, stop and read the status, and reject with the refusal", async (world) => {
  assert.throws(() => watchCache("x", () => {}), BridgeError);
  const { options } = await ready(world);
  configureWebSocketBridge(options);
  await world.connect(LANCE.email, 5150705);
  assert.equal((await startWebSocket(LANCE.email)).accountId, "5150705");
  assert.equal((await stopWebSocket(LANCE.email)).wasConnected, false);
  assert.equal((await getWebSocketStatus(LANCE.email)).connected, false);
  const refused = async (work: Promise<unknown>, status: number) =>
    await assert.rejects(work, (error) => error instanceof BridgeError && error.status === status);
  await refused(startWebSocket(LANCE.email, "7"), 404);
  await refused(startWebSocket(OTHER.email), 403);
  const away = createWebSocketBridge({ ...options, url: "http://127.0.0.1:1" });
  await refused(away.getWebSocketStatus(LANCE.email), 0);
  const nobody = createWebSocketBridge({ ...options, accessToken: () => Promise.resolve(null) });
  await refused(nobody.getWebSocketStatus(LANCE.email), 401);
});

Deno.test("a consent is finished with the state that came back, or else the one that was begun here", async () => {
  const requested: string[] = [];
  const bridge = createWebSocketBridge({
    url: "https://project.example.org/",
    apiKey: "key",
    supabase: {} as never,
    accessToken: () => Promise.resolve("token"),
    fetch: (url) => {
      requested.push(String(url));
      return Promise.resolve(Response.json({ url: "https://consent.example.org/", state: "begun" }));
    },
  });
  const base = "https://project.example.org/functions/v1/bridge/api/ctrader";
  assert.equal(await bridge.beginConnecting("lance@example.org"), "https://consent.example.org/");
  await bridge.finishConnecting("https://app.example.org/connected?code=c%2F1");
  await bridge.beginConnecting("u");
  await bridge.finishConnecting("https://app.example.org/connected?code=2&state=returned");
  assert.deepEqual(requested, [
    `${base}/connect?userId=lance%40example.org`,
    `${base}/callback?code=c%2F1&state=begun`,
    `${base}/connect?userId=u`,
    `${base}/callback?code=2&state=returned`,
  ]);
  await assert.rejects(
    bridge.finishConnecting("https://app.example.org/connected?error=access_denied"),
    BridgeError,
  );
  await bridge.finishConnecting("https://app.example.org/connected?code=3");
  assert.equal(requested.at(-1), `${base}/callback?code=3`, "a state is kept for one attempt");
});
