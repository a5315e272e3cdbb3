// The page from end to end: a real browser, the real function, broker, database and worker, and the simulated
// cTrader, which goes down and comes back.
//
// If SCREENSHOTS names a folder, a picture of each state is written there.

import assert from "node:assert/strict";
import { eventually } from "../../../supabase/functions/tests/support/services.ts";
import { JWT_SECRET, LANCE, sign, test } from "../../../supabase/functions/tests/support/world.ts";
import { startFakeSupabase } from "../fake_supabase.ts";
import { openPage, PHONE } from "./browser.ts";

const pictures = Deno.env.get("SCREENSHOTS");

test("sign in, start, numbers move, cTrader drops, the page says so, it recovers, stop", async (world) => {
  const sim = await world.simulator();
  const worker = await world.worker(sim);
  const bridge = await world.serve();
  const server = await startFakeSupabase({
    databaseUrl: world.databaseUrl,
    jwtSecret: JWT_SECRET,
    apiKey: await sign({ role: "anon" }, { alg: "HS256" }),
    bridge: bridge.fetch,
    staleMs: 4000,
  });
  world.onClose(() => server.close());
  await world.connect(LANCE.email, 5150705, { token: sim.tokenWithPositions });
  const { page, problems, close } = await openPage();
  world.onClose(close);
  const picture = async (name: string) => {
    if (pictures) await page.screenshot({ path: `${pictures}/${name}.png`, fullPage: true });
  };
  const status = (wanted: string) =>
    eventually(`the page to say ${wanted}`, async () => await page.innerText("#status") === wanted, 30_000);
  const fits = async () =>
    assert.ok(await page.evaluate(() => document.documentElement.scrollWidth <= innerWidth), "it fits");

  const token = await sign(LANCE, { alg: "HS256" });
  await page.goto(`${server.origin}/#token=${token}`);
  await eventually("the token to be filled in", async () => await page.inputValue("#token") === token);
  assert.equal(new URL(page.url()).hash, "", "the token does not stay in the address");
  await fits();
  await picture("1-sign-in");
  await page.click("#sign-in button");
  await status("Not started");
  assert.equal(await page.innerText("#user"), LANCE.email);
  await picture("2-signed-in");

  await page.click("#start");
  await status("Live");
  assert.match(await page.innerText("#age"), /over Realtime/);
  const first = await page.innerText("#equity");
  assert.match(first, /^[\d,]+\.\d\d EUR$/);
  const moved = async (from: string) =>
    await eventually("the equity to move", async () => {
      const now = await page.innerText("#equity");
      return now !== from && now;
    });
  await moved(await moved(first));
  await eventually("the sparkline", async () => {
    const line = await page.getAttribute("#sparkline .line", "d");
    return (line ?? "").split("L").length >= 5;
  });
  assert.ok(await page.locator("#positions li").count() > 0, "positions are shown");
  assert.equal(await page.innerText("#environment"), "Demo");
  await fits();
  await picture("3-live");
  await page.emulateMedia({ colorScheme: "dark" });
  await picture("3-live-dark");
  await page.emulateMedia({ colorScheme: "light" });
  await page.setViewportSize({ width: 1280, height: 900 });
  await picture("3-live-wide");
  await page.setViewportSize(PHONE);

  // The notice changes when the first attempt to reconnect fails, so every text of it is recorded.
  await page.evaluate(() => {
    const notice = document.querySelector("#notice")!;
    const texts: string[] = [];
    new MutationObserver(() => texts.push(notice.textContent ?? "")).observe(notice, { childList: true });
    Object.assign(globalThis, { noticeTexts: texts });
  });
  await sim.stop();
  await status("Reconnecting");
  const notices = await page.evaluate(() =>
    (globalThis as unknown as { noticeTexts: string[] }).noticeTexts.filter((text) => text !== "")
  );
  assert.equal(notices[0], "The connection to cTrader was lost. These are the last figures.");
  assert.notEqual(await page.getAttribute("body", "data-old"), null, "the figures look old");
  await fits();
  await picture("4-reconnecting");

  await sim.start();
  await status("Live");
  assert.ok(await page.isHidden("#notice"));
  await moved(await page.innerText("#equity"));
  await picture("5-recovered");

  worker.signal("SIGSTOP");
  await status("Stale");
  assert.match(await page.innerText("#notice"), /old/);
  await picture("6-stale");
  worker.signal("SIGCONT");
  await status("Live");

  await page.click("#stop");
  await status("Stopped");
  await eventually("the start button", () => page.isVisible("#start"));
  await picture("7-stopped");
  await page.click("#sign-out");
  assert.equal(await page.getAttribute("body", "data-view"), "sign-in");
  assert.deepEqual(problems.filter((problem) => !/websocket/i.test(problem)), []);
});
