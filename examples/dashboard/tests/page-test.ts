// The page from end to end, as a person uses it: a real browser, the real function, broker, database and
// worker, and the simulated cTrader, which goes away and comes back.
//
// With SCREENSHOTS set to a folder, a picture of each state is left there.

import assert from "node:assert/strict";
import { eventually } from "../../../supabase/functions/tests/support/services.ts";
import { JWT_SECRET, LANCE, sign, test } from "../../../supabase/functions/tests/support/world.ts";
import { standIn } from "../stand_in.ts";
import { Browser } from "./browser.ts";

const pictures = Deno.env.get("SCREENSHOTS");

test("sign in, start, numbers move, cTrader drops, the page says so, it recovers, stop", async (world) => {
  const sim = await world.simulator();
  const worker = await world.worker(sim);
  const bridge = await world.serve();
  const server = await standIn({
    databaseUrl: world.databaseUrl,
    jwtSecret: JWT_SECRET,
    apiKey: await sign({ role: "anon" }, { alg: "HS256" }),
    bridge: bridge.fetch,
    staleMs: 4000,
  });
  world.onClose(() => server.close());
  await world.connect(LANCE.email, 5150705, { token: sim.workedToken });
  const browser = await Browser.open();
  world.onClose(() => browser.close());
  const picture = async (name: string) => {
    if (pictures) await browser.screenshot(`${pictures}/${name}.png`);
  };
  const status = (wanted: string) =>
    eventually(`the page to say ${wanted}`, async () => {
      const said = await browser.text("#status");
      return said === wanted;
    }, 30_000);
  const fits = async () =>
    assert.equal(await browser.value("document.documentElement.scrollWidth <= innerWidth"), true, "it fits");

  const token = await sign(LANCE, { alg: "HS256" });
  await browser.goto(`${server.origin}/#token=${token}`);
  await eventually(
    "the token to be filled in",
    () => browser.value("document.forms[0].token.value.length > 50"),
  );
  assert.equal(await browser.value("location.hash"), "", "the token does not stay in the address");
  await fits();
  await picture("1-sign-in");
  await browser.click("#sign-in button");
  await status("Not started");
  assert.equal(await browser.text("#user"), LANCE.email);
  await picture("2-signed-in");

  await browser.click("#start");
  await status("Live");
  assert.match(await browser.text("#age"), /over Realtime/);
  const first = await browser.text("#equity");
  assert.match(first, /^[\d,]+\.\d\d EUR$/);
  const moved = async (from: string) =>
    await eventually("the equity to move", async () => {
      const now = await browser.text("#equity");
      return now !== from && now;
    });
  await moved(await moved(first));
  await eventually("the sparkline", async () => {
    const line = await browser.value<string>("document.querySelector('#sparkline .line').getAttribute('d')");
    return line.split("L").length >= 5;
  });
  const positions = await browser.value<number>("document.querySelectorAll('#positions li').length");
  assert.ok(positions > 0, "positions are shown");
  assert.equal(await browser.text("#environment"), "Demo");
  await fits();
  await picture("3-live");
  await browser.screen(390, 844, true);
  await picture("3-live-dark");
  await browser.screen(1280, 900);
  await picture("3-live-wide");
  await browser.screen(390, 844);

  await sim.stop();
  await status("Reconnecting");
  assert.match(
    await browser.text("#notice"),
    /^The connection to cTrader was lost\. These are the last figures\.$/,
  );
  assert.equal(await browser.value("document.body.hasAttribute('data-old')"), true, "the figures look old");
  await fits();
  await picture("4-reconnecting");

  await sim.start();
  await status("Live");
  assert.equal(await browser.value("document.querySelector('#notice').hidden"), true);
  await moved(await browser.text("#equity"));
  await picture("5-recovered");

  worker.signal("SIGSTOP");
  await status("Stale");
  assert.match(await browser.text("#notice"), /old/);
  await picture("6-stale");
  worker.signal("SIGCONT");
  await status("Live");

  await browser.click("#stop");
  await status("Stopped");
  await eventually("the start button", () => browser.value("!document.querySelector('#start').hidden"));
  await picture("7-stopped");
  await browser.click("#sign-out");
  assert.equal(await browser.value("document.body.dataset.view"), "sign-in");
  const problems = browser.problems.filter((problem) => !/websocket/i.test(problem));
  assert.deepEqual(problems, []);
});
