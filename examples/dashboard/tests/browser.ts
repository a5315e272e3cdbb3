// A headless Chromium, driven over its DevTools protocol: no driver, no download.

import { Child } from "../../../supabase/functions/tests/support/child.ts";
import { eventually, required } from "../../../supabase/functions/tests/support/services.ts";

interface Reply {
  id?: number;
  method?: string;
  params?: Record<string, unknown>;
  result?: Record<string, unknown>;
  error?: { message: string };
}

export class Browser {
  readonly #child: Child;
  readonly #folder: string;
  readonly #socket: WebSocket;
  readonly #pending = new Map<number, (reply: Reply) => void>();
  #session = "";
  #lastId = 0;
  /** What the page said went wrong: exceptions, and what its policy kept away. */
  readonly problems: string[] = [];

  private constructor(child: Child, folder: string, socket: WebSocket) {
    [this.#child, this.#folder, this.#socket] = [child, folder, socket];
    socket.onmessage = ({ data }) => {
      const reply: Reply = JSON.parse(data);
      if (reply.id !== undefined) this.#pending.get(reply.id)?.(reply);
      if (reply.method === "Runtime.exceptionThrown") this.problems.push(JSON.stringify(reply.params));
      if (reply.method === "Log.entryAdded") {
        const { level, text, url } = reply.params?.entry as Record<string, string>;
        if (level === "error") this.problems.push(`${text} ${url ?? ""}`);
      }
    };
  }

  /** A phone's screen. */
  static async open(width = 390, height = 844): Promise<Browser> {
    const folder = await Deno.makeTempDir({ prefix: "page-test-" });
    const child = new Child("browser", required("CHROMIUM"), [
      "--headless=new",
      "--no-sandbox", // it may be root who tests
      "--disable-gpu",
      "--disable-dev-shm-usage",
      "--no-first-run",
      "--disable-background-networking",
      "--disable-component-update",
      "--disable-extensions",
      "--remote-debugging-port=0",
      `--user-data-dir=${folder}`,
      "about:blank",
    ], { PATH: "/usr/bin:/bin", HOME: folder, LANG: "C.UTF-8" });
    try {
      const said = await child.said(/DevTools listening on (ws:\S+)/, 30_000);
      const address = /DevTools listening on (ws:\S+)/.exec(said)?.[1] ?? "";
      const socket = new WebSocket(address);
      await new Promise((resolve, reject) => {
        socket.onopen = resolve;
        socket.onerror = reject;
      });
      const browser = new Browser(child, folder, socket);
      const { targetId } = await browser.#send("Target.createTarget", { url: "about:blank" });
      const attached = await browser.#send("Target.attachToTarget", { targetId, flatten: true });
      browser.#session = String(attached.sessionId);
      for (const domain of ["Page", "Runtime", "Log"]) await browser.#send(`${domain}.enable`);
      await browser.screen(width, height);
      return browser;
    } catch (error) {
      await child.kill();
      throw error;
    }
  }

  async screen(width: number, height: number, dark = false): Promise<void> {
    await this.#send("Emulation.setDeviceMetricsOverride", {
      width,
      height,
      deviceScaleFactor: 2,
      mobile: width < 600,
    });
    const features = [{ name: "prefers-color-scheme", value: dark ? "dark" : "light" }];
    await this.#send("Emulation.setEmulatedMedia", { features });
  }

  async goto(url: string): Promise<void> {
    await this.#send("Page.navigate", { url });
    await eventually("the page to be there", () => this.value("document.readyState === 'complete'"));
  }

  /** What an expression is on the page. */
  async value<T>(expression: string): Promise<T> {
    const { result, exceptionDetails } = await this.#send("Runtime.evaluate", {
      expression,
      returnByValue: true,
      awaitPromise: true,
    }) as { result: { value: T }; exceptionDetails?: { text: string } };
    if (exceptionDetails !== undefined) throw new Error(`${expression}: ${exceptionDetails.text}`);
    return result.value;
  }

  text(selector: string): Promise<string> {
    return this.value(`document.querySelector(${JSON.stringify(selector)}).innerText`);
  }

  /** Clicks as a person does: where the element is, if it can be seen. */
  async click(selector: string): Promise<void> {
    const at = await this.value<{ x: number; y: number; hit: boolean }>(`(() => {
      const element = document.querySelector(${JSON.stringify(selector)});
      element.scrollIntoView({ block: "center" });
      const box = element.getBoundingClientRect();
      const [x, y] = [box.x + box.width / 2, box.y + box.height / 2];
      return { x, y, hit: element.contains(document.elementFromPoint(x, y)) };
    })()`);
    if (!at.hit) throw new Error(`${selector} cannot be clicked: something else is there`);
    for (const type of ["mousePressed", "mouseReleased"]) {
      await this.#send("Input.dispatchMouseEvent", { type, x: at.x, y: at.y, button: "left", clickCount: 1 });
    }
  }

  /** The whole page as a PNG. */
  async screenshot(path: string): Promise<void> {
    await this.value("scrollTo(0, 0)");
    const { data } = await this.#send("Page.captureScreenshot", {
      format: "png",
      captureBeyondViewport: true,
    });
    await Deno.writeFile(path, Uint8Array.from(atob(String(data)), (char) => char.charCodeAt(0)));
  }

  async close(): Promise<void> {
    this.#socket.close();
    await this.#child.kill();
    // Its children may still write for a moment.
    await eventually("the browser's folder to go", async () => {
      await Deno.remove(this.#folder, { recursive: true });
      return true;
    });
  }

  async #send(method: string, params: Record<string, unknown> = {}): Promise<Record<string, unknown>> {
    const id = ++this.#lastId;
    const reply = await new Promise<Reply>((resolve, reject) => {
      const timer = setTimeout(() => reject(new Error(`the browser did not answer to ${method}`)), 20_000);
      this.#pending.set(id, (reply) => {
        clearTimeout(timer);
        this.#pending.delete(id);
        resolve(reply);
      });
      this.#socket.send(
        JSON.stringify({
          id,
          method,
          params,
          sessionId: method.startsWith("Target.") ? undefined : this.#session,
        }),
      );
    });
    if (reply.error !== undefined) throw new Error(`${method}: ${reply.error.message}`);
    return reply.result ?? {};
  }
}
