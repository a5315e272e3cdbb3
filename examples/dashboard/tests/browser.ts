// Opens a page in the system's Chromium, headless, through Playwright: nothing is downloaded.

import { chromium, type Page } from "playwright-core";
import { required } from "../../../supabase/functions/tests/support/services.ts";

export interface OpenPage {
  page: Page;
  /** Uncaught exceptions, and the errors of the page's console: what its policy blocked is among them. */
  problems: string[];
  close: () => Promise<void>;
}

/** A phone's screen. */
export const PHONE = { width: 390, height: 844 };

export async function openPage(): Promise<OpenPage> {
  const home = await Deno.makeTempDir({ prefix: "page-test-" });
  const browser = await chromium.launch({
    executablePath: required("CHROMIUM"),
    env: { PATH: "/usr/bin:/bin", HOME: home, LANG: "C.UTF-8" },
    args: [
      "--no-sandbox", // Tests may run as root.
      "--disable-gpu",
      "--disable-quic",
      "--no-first-run",
      "--disable-background-networking",
      "--disable-component-update",
      "--disable-sync",
    ],
  });
  const page = await browser.newPage({ viewport: PHONE, deviceScaleFactor: 2, isMobile: true });
  const problems: string[] = [];
  page.on("pageerror", (error) => problems.push(String(error)));
  page.on("console", (message) => {
    if (message.type() === "error") problems.push(`${message.text()} ${message.location().url}`);
  });
  const close = async () => {
    await browser.close();
    await Deno.remove(home, { recursive: true });
  };
  return { page, problems, close };
}
