// A table of attacks. Each gets the right status, and a response that reveals nothing about other users or about
// the implementation.

import assert from "node:assert/strict";
import { base64url, exportSPKI, SignJWT } from "jose";
import { jwks, keys, LANCE, OTHER, serviceToken, sign, test } from "./support/world.ts";

const START = "/api/start-websocket";
const encoded = (value: unknown) => base64url.encode(JSON.stringify(value));

/** What no response to an attacker contains: other users, their money, the implementation. */
const LEAKS =
  /other@|5d1c88aa|777001|31337|select|insert|bridge\.|postgres|amqp|sql|stack|\.ts|file:|undefined|secret/i;

interface Attack {
  name: string;
  status: number;
  method?: string;
  path?: string;
  token?: string;
  body?: unknown;
  headers?: Record<string, string>;
}

test("attacks get the right status, leak nothing and change nothing", async (world) => {
  const take = await world.topology();
  const ctrader = {
    CTRADER_CLIENT_ID: "id",
    CTRADER_CLIENT_SECRET: "the-client-secret",
    CTRADER_REDIRECT_URI: "https://app.example.org/connected",
  };
  await world.serve(ctrader);
  await world.connect(LANCE.email, 5150705);
  await world.connect(OTHER.email, 777001);
  await world.row(OTHER.email, 777001, { balance: 31337 });
  const body = { userId: LANCE.email };
  const lance = await sign(LANCE);
  const service = await serviceToken();
  const [head, claims, signature] = lance.split(".");
  const now = Math.floor(Date.now() / 1000);
  const serviceClaims = { role: "service_role", exp: now + 3600 };
  const publicKey = new TextEncoder().encode(await exportSPKI(keys.es256.publicKey));
  const publicRsa = new TextEncoder().encode(await exportSPKI(keys.rs256.publicKey));
  const confused = (key: Uint8Array, kid: string) =>
    new SignJWT({ role: "service_role" }).setProtectedHeader({ alg: "HS256", kid })
      .setExpirationTime("1h").sign(key);
  const begin = async (token: string, userId: string) => {
    const answer = await world.call("GET", `/api/ctrader/connect?userId=${encodeURIComponent(userId)}`, {
      token,
    });
    assert.equal(answer.status, 200, answer.text);
    return String(answer.body.state);
  };
  const others = await begin(await sign(OTHER), OTHER.email);
  const mine = await begin(lance, LANCE.email);
  const callback = (state: string) => `/api/ctrader/callback?code=c&state=${encodeURIComponent(state)}`;

  const attacks: Attack[] = [
    { name: "no token", status: 401, body },
    { name: "an empty token", status: 401, token: "", body },
    { name: "another scheme", status: 401, headers: { authorization: `Basic ${lance}` }, body },
    { name: "no JWT", status: 401, token: "sb_secret_31337", body },
    { name: "three words", status: 401, token: "aaa.bbb.ccc", body },
    {
      name: "a header that is no object",
      status: 401,
      token: `${encoded("x")}.${claims}.${signature}`,
      body,
    },
    { name: "a kid that is a path", status: 401, token: await withHeader({ kid: "../../secret" }), body },
    { name: "a critical header", status: 401, token: await withHeader({ crit: ["x"], x: 1 }), body },
    { name: "expired", status: 401, token: await sign(LANCE, { secs: -60 }), body },
    { name: "never expires", status: 401, token: await withoutExpiry(), body },
    { name: "wrong key", status: 401, token: await sign(LANCE, { key: keys.stranger.privateKey }), body },
    {
      name: "wrong secret",
      status: 401,
      token: await sign(LANCE, { alg: "HS256", key: new TextEncoder().encode("x".repeat(40)) }),
      body,
    },
    {
      name: "alg none",
      status: 401,
      token: `${encoded({ alg: "none", typ: "JWT" })}.${encoded(serviceClaims)}.`,
      body,
    },
    {
      name: "alg None with a signature",
      status: 401,
      token: `${encoded({ alg: "None" })}.${encoded(serviceClaims)}.${signature}`,
      body,
    },
    { name: "HS256 with the EC public key", status: 401, token: await confused(publicKey, "es"), body },
    { name: "HS256 with the RSA public key", status: 401, token: await confused(publicRsa, "rs"), body },
    {
      name: "HS256 with the JWK's text",
      status: 401,
      token: await confused(
        new TextEncoder().encode(JSON.stringify(await crypto.subtle.exportKey("jwk", keys.es256.publicKey))),
        "es",
      ),
      body,
    },
    {
      name: "claims exchanged under the signature",
      status: 401,
      token: `${head}.${encoded(serviceClaims)}.${signature}`,
      body,
    },
    {
      name: "a key of its own in the header",
      status: 401,
      token: await new SignJWT(serviceClaims).setProtectedHeader({
        alg: "ES256",
        jwk: await crypto.subtle.exportKey("jwk", keys.stranger.publicKey),
        jku: "http://127.0.0.1:1/jwks.json",
        kid: "es",
      }).sign(keys.stranger.privateKey),
      body,
    },
    { name: "a token of 30 KB", status: 401, token: `${head}.${"a".repeat(30_000)}.${signature}`, body },
    { name: "an anonymous key", status: 403, token: await sign({ role: "anon" }, { alg: "HS256" }), body },
    { name: "a role of no use", status: 403, token: await sign({ ...LANCE, role: "postgres" }), body },
    {
      name: "a role in the user's own metadata",
      status: 403,
      path: "/api/sessions",
      method: "GET",
      token: await sign({ ...LANCE, user_metadata: { role: "service_role" }, app_metadata: {} }),
    },
    { name: "another user in the body", status: 403, token: lance, body: { userId: OTHER.email } },
    { name: "another user's UUID", status: 403, token: lance, body: { userId: OTHER.sub } },
    { name: "another case", status: 403, token: lance, body: { userId: LANCE.email.toUpperCase() } },
    {
      name: "another user to stop",
      status: 403,
      path: "/api/stop-websocket",
      token: lance,
      body: { userId: OTHER.email },
    },
    {
      name: "another user to disconnect",
      status: 403,
      path: "/api/ctrader/disconnect",
      token: lance,
      body: { userId: OTHER.email },
    },
    { name: "another user's account", status: 404, token: lance, body: { ...body, accountId: 777001 } },
    {
      name: "another user in the path",
      status: 403,
      method: "GET",
      path: `/api/websocket-status/${OTHER.email}`,
      token: lance,
    },
    {
      name: "another user's status by account",
      status: 200,
      method: "GET",
      path: `/api/websocket-status/${LANCE.email}?accountId=777002`,
      token: lance,
    },
    {
      name: "a path that climbs",
      status: 404,
      method: "GET",
      path: `/api/websocket-status/${LANCE.email}/..%2f..%2fsessions`,
      token: lance,
    },
    {
      name: "a path that is not well-formed",
      status: 400,
      method: "GET",
      path: "/api/websocket-status/%ff",
      token: lance,
    },
    { name: "two user ids", status: 400, token: lance, body: { userId: [LANCE.email, OTHER.email] } },
    {
      name: "the service's route as a user",
      status: 403,
      method: "GET",
      path: "/api/sessions",
      token: lance,
    },
    { name: "SQL in the user id", status: 403, token: lance, body: { userId: "' or '1'='1" } },
    {
      name: "SQL in the user id, as the service",
      status: 404,
      token: service,
      body: { userId: "'; drop table bridge.credentials; --" },
    },
    {
      name: "SQL in the path, as the service",
      status: 200,
      method: "GET",
      path: `/api/websocket-status/${encodeURIComponent("x' union select 31337 --")}`,
      token: service,
    },
    { name: "SQL in the account", status: 400, token: lance, body: { ...body, accountId: "1 or 1=1" } },
    { name: "NUL in the user id", status: 400, token: service, body: { userId: "a\0b" } },
    { name: "a body of 1 MB", status: 413, token: lance, body: { ...body, pad: "x".repeat(1_000_000) } },
    { name: "a body that is not JSON", status: 400, token: lance, body: "userId=x" },
    { name: "a body that is an array", status: 400, token: lance, body: [body] },
    { name: "a body that is null", status: 400, token: lance, body: null },
    { name: "no user id", status: 400, token: lance, body: {} },
    { name: "deep JSON", status: 400, token: lance, body: "[".repeat(8000) },
    { name: "a prototype in the body", status: 400, token: lance, body: '{"__proto__":{"userId":"x"}}' },
    {
      name: "a form",
      status: 415,
      token: lance,
      body: "userId=x",
      headers: { "content-type": "application/x-www-form-urlencoded" },
    },
    {
      name: "JSON called text",
      status: 415,
      token: lance,
      body,
      headers: { "content-type": "text/plain" },
    },
    { name: "GET on a POST route", status: 405, method: "GET", token: lance },
    { name: "PUT on a POST route", status: 405, method: "PUT", token: lance, body },
    { name: "POST on a GET route", status: 405, path: "/api/sessions", token: service, body },
    {
      name: "a method by header",
      status: 405,
      method: "GET",
      token: lance,
      headers: { "x-http-method-override": "POST" },
    },
    { name: "a route that is none", status: 404, method: "GET", path: "/api/admin", token: lance },
    { name: "a route that is none, without a token", status: 401, method: "GET", path: "/api/admin" },
    { name: "health without a token", status: 401, method: "GET", path: "/health" },
    {
      name: "a consent for another user",
      status: 403,
      method: "GET",
      path: `/api/ctrader/connect?userId=${OTHER.email}`,
      token: lance,
    },
    { name: "a callback without a token", status: 401, method: "GET", path: callback(mine) },
    { name: "a forged state", status: 400, method: "GET", path: callback("forged"), token: lance },
    {
      name: "a forged state of the right form",
      status: 403,
      method: "GET",
      path: callback(`${"A".repeat(32)}.${now + 300}.${"A".repeat(43)}`),
      token: lance,
    },
    { name: "another user's state", status: 403, method: "GET", path: callback(others), token: lance },
    {
      name: "one's own state, brought by another user",
      status: 403,
      method: "GET",
      path: callback(mine),
      token: await sign(OTHER),
    },
    {
      name: "a callback without a code",
      status: 400,
      method: "GET",
      path: `/api/ctrader/callback?state=${mine}`,
      token: lance,
    },
  ];
  for (const { name, status, method = "POST", path = START, ...call } of attacks) {
    const answer = await world.call(method, path, call);
    assert.equal(answer.status, status, `${name}: ${answer.text}`);
    assert.doesNotMatch(answer.text.replace(/cTrader/g, ""), LEAKS, name);
    assert.equal(answer.headers.get("cache-control"), "no-store", name);
    if (status !== 200) {
      assert.deepEqual([Object.keys(answer.body), answer.body.success], [["success", "error"], false], name);
    }
  }
  assert.ok(attacks.length > 50);
  assert.deepEqual(await take(), [], "nothing was published");
  const rows = await world.sql`select user_id, account_id::int from bridge.credentials order by 2`;
  assert.deepEqual(rows.map((row) => [row.user_id, row.account_id]), [
    [OTHER.email, 777001],
    [LANCE.email, 5150705],
  ]);

  /** A token that is signed with the right key, with additional header fields. */
  async function withHeader(header: Record<string, unknown>): Promise<string> {
    const text = `${encoded({ alg: "ES256", kid: "es", ...header })}.${
      encoded({ ...LANCE, ...serviceClaims })
    }`;
    const by = { name: "ECDSA", hash: "SHA-256" };
    const bytes = await crypto.subtle.sign(by, keys.es256.privateKey, new TextEncoder().encode(text));
    return `${text}.${base64url.encode(new Uint8Array(bytes))}`;
  }

  async function withoutExpiry(): Promise<string> {
    return await new SignJWT({ ...LANCE, role: "authenticated" }).setProtectedHeader({
      alg: "ES256",
      kid: "es",
    })
      .sign(keys.es256.privateKey);
  }
});

test("tokens of every kind that Supabase issues are taken", async (world) => {
  await world.serve();
  for (const alg of ["ES256", "RS256", "HS256"]) {
    for (const userId of [LANCE.sub, LANCE.email]) {
      const token = await sign(LANCE, { alg });
      const answer = await world.call("GET", `/api/websocket-status/${userId}`, { token });
      assert.equal(answer.status, 200, `${alg} ${answer.text}`);
    }
  }
});

test(
  "the project's keys are used, new ones are fetched, and without them the response is 503",
  async (world) => {
    const published = { keys: [jwks.keys[1]] as unknown[], status: 200 };
    const project = Deno.serve({ hostname: "127.0.0.1", port: 0, onListen: () => {} }, (request) => {
      assert.equal(new URL(request.url).pathname, "/auth/v1/.well-known/jwks.json");
      return Response.json({ keys: published.keys }, { status: published.status });
    });
    world.onClose(() => project.shutdown());
    const url = `http://127.0.0.1:${project.addr.port}`;
    const ask = async (alg: string) =>
      (await world.call("GET", `/api/websocket-status/${LANCE.sub}`, { token: await sign(LANCE, { alg }) }))
        .status;

    await world.serve({ SUPABASE_URL: url, SUPABASE_JWKS: "", JWT_SECRET: "" });
    assert.deepEqual([await ask("RS256"), await ask("ES256"), await ask("HS256")], [200, 401, 401]);
    // The function was deployed with keys that lack the one that the project signs with now.
    published.keys = jwks.keys;
    await world.serve({ SUPABASE_URL: url, SUPABASE_JWKS: JSON.stringify({ keys: [jwks.keys[1]] }) });
    assert.deepEqual([await ask("RS256"), await ask("ES256")], [200, 200]);
    published.status = 500;
    await world.serve({ SUPABASE_URL: url, SUPABASE_JWKS: "" });
    assert.deepEqual([await ask("ES256"), await ask("HS256")], [503, 200]);
    await world.serve({ SUPABASE_URL: "http://127.0.0.1:1", SUPABASE_JWKS: "" });
    assert.equal(await ask("ES256"), 503);
  },
  { sanitizeResources: false },
); // jose does not read the body of an error response
