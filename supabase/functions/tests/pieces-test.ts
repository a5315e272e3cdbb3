// What needs no server: commands against the golden files, encrypted tokens, consent states, settings.

import assert from "node:assert/strict";
import { commandJson, nextIssuedAt } from "../bridge/command.ts";
import { createState, STATE_LIFETIME_SECS, verifyState } from "../bridge/consent.ts";
import { readSettings, SettingsError } from "../bridge/env.ts";
import { HttpError } from "../bridge/errors.ts";
import { parseAccountId, parseUserId, routePath } from "../bridge/http.ts";
import { seal } from "../bridge/seal.ts";

const GOLDEN = new URL("../../../tests/fixtures/commands/", import.meta.url);

Deno.test("commands are written as the golden files that the worker's tests read", async () => {
  let seen = 0;
  for await (const { name } of Deno.readDir(GOLDEN)) {
    if (!name.endsWith(".json") || name.startsWith("lenient-")) continue;
    const golden = (await Deno.readTextFile(new URL(name, GOLDEN))).trimEnd();
    const { accountId, ...rest } = JSON.parse(golden);
    const command = { ...rest, accountId: parseAccountId(accountId) };
    assert.equal(commandJson(command), golden, name);
    seen++;
  }
  assert.ok(seen >= 5, `${seen} golden files`);
});

Deno.test("the generated protobuf code is what proto/ gives", async () => {
  const script = new URL("../../../scripts/bindings", import.meta.url).pathname;
  const { success, stderr } = await new Deno.Command(script, { args: ["--check"] }).output();
  assert.ok(success, new TextDecoder().decode(stderr));
});

Deno.test("the largest account id keeps its digits", () => {
  const accountId = parseAccountId("9223372036854775807");
  const command = { id: "i", command: "start", userId: "u", accountId, issuedAt: "t" } as const;
  assert.match(commandJson(command), /"accountId":9223372036854775807,/);
});

Deno.test("of two commands in the same millisecond the later has the later time", () => {
  const now = Date.UTC(2126, 10, 23, 5, 42, 0, 7);
  const times = Array.from({ length: 1500 }, () => nextIssuedAt(now));
  assert.equal(times[0], "2126-11-23T05:42:00.007000Z");
  assert.equal(times[1499], "2126-11-23T05:42:00.008499Z");
  assert.deepEqual(times, [...new Set(times)].sort());
});

Deno.test("a sealed token is the one that the worker's tests open", async () => {
  const key = Uint8Array.from({ length: 32 }, (_, at) => at);
  const nonce = Uint8Array.from({ length: 12 }, (_, at) => at);
  assert.equal(
    await seal(key, "lance@example.org", "access-1", nonce),
    "enc:v1:AAECAwQFBgcICQoLJmG1fraW7yp8q5GLPwraWXeKixRL4jMl",
  );
  const [first, second] = [await seal(key, "u", "token"), await seal(key, "u", "token")];
  assert.notEqual(first, second, "a nonce is used once");
  assert.equal(await seal(undefined, "u", "token"), "token");
});

Deno.test("a state opens for its user, in time, and unchanged", async () => {
  const now = Date.now();
  const { state, hash, expiresAt } = await createState("secret", "lance", now);
  assert.ok(!state.includes("lance") && expiresAt.getTime() <= now + STATE_LIFETIME_SECS * 1000);
  const open = (text: string, ids: string[], secret = "secret", at = now) =>
    verifyState(secret, text, ids, at);
  assert.deepEqual(await open(state, ["uuid", "lance"]), { hash, userId: "lance" });
  const refused = async (status: number, opened: Promise<unknown>) =>
    await assert.rejects(opened, (error) => error instanceof HttpError && error.status === status);
  await refused(403, open(state, ["other"]));
  await refused(403, open(state, []));
  await refused(403, open(state, ["lance"], "another secret"));
  await refused(400, open(state, ["lance"], "secret", now + (STATE_LIFETIME_SECS + 1) * 1000));
  for (const text of ["", "x", state + "x", state.replaceAll(".", "")]) {
    await refused(400, open(text, ["lance"]));
  }
  const [nonce, ends, tag] = state.split(".");
  await refused(403, open(`${nonce}.${Number(ends) + 60}.${tag}`, ["lance"]));
  const flipped = (tag?.[0] === "A" ? "B" : "A") + tag?.slice(1);
  await refused(403, open(`${nonce}.${ends}.${flipped}`, ["lance"]));
  const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
  const respelled = tag?.slice(0, -1) + (alphabet[alphabet.indexOf(tag?.at(-1) ?? "") + 1] ?? "");
  await refused(403, open(`${nonce}.${ends}.${respelled}`, ["lance"]));
});

Deno.test("every problem of the environment is listed at once, and no value is repeated", () => {
  const env: Record<string, string> = {
    DATABASE_URL: "mysql://root:hunter2@db/x",
    JWT_SECRET: "hunter2",
    SUPABASE_JWKS: "hunter2",
    ALLOWED_ORIGINS: "https://app.example.org/hunter2",
    TOKEN_ENCRYPTION_KEY: "hunter2",
    FLY_API_TOKEN: "hunter2",
    CTRADER_CLIENT_ID: "id",
    CTRADER_CLIENT_SECRET: "hunter2",
    CTRADER_REDIRECT_URI: "https://app.example.org/connected",
    CTRADER_TOKEN_URL: "http://elsewhere.example.org/hunter2",
  };
  assert.throws(() => readSettings((name) => env[name]), (error) => {
    assert.ok(error instanceof SettingsError);
    for (const name of Object.keys(env).concat("AMQP_URL")) {
      if (/^CTRADER_(CLIENT|REDIRECT)/.test(name)) continue;
      assert.ok(error.problems.some((problem) => problem.includes(name)), name);
    }
    assert.ok(!error.message.includes("hunter2"));
    return true;
  });
});

Deno.test("bad user ids and account ids are refused", () => {
  for (const good of ["a", "ä".repeat(320), "😀".repeat(320), "'; drop table x; --"]) {
    assert.equal(parseUserId(good), good);
  }
  for (
    const bad of ["", "a".repeat(321), "😀".repeat(321), "a\0b", "\ud800", 1, null, undefined, ["a"], {}]
  ) {
    assert.throws(() => parseUserId(bad), HttpError);
  }
  assert.deepEqual([1, "1", "007", null, undefined].map(parseAccountId), [
    "1",
    "1",
    "7",
    undefined,
    undefined,
  ]);
  const bad = [0, -1, 1.5, 2 ** 53, NaN, "", "x", "-1", "1e3", "9223372036854775808", true, {}, [1]];
  for (const value of bad) assert.throws(() => parseAccountId(value), HttpError, String(value));
});

Deno.test("a route is the same behind the gateway and without it", () => {
  for (const path of ["/health", "/bridge/health", "/functions/v1/bridge/health"]) {
    assert.equal(routePath(new URL(`https://x.example${path}`)), "/health");
  }
  assert.equal(routePath(new URL("https://x.example/bridges/health")), "/bridges/health");
});
