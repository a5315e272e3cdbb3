// Wakes the fleet: where workers scale to zero, a start also starts a stopped machine of Fly's.
//
// It runs after the command was confirmed, beside the answer: the command waits in its queue, and the
// next start tries again.

import type { FlySettings } from "./env.ts";

interface Machine {
  id?: unknown;
  state?: unknown;
  config?: { metadata?: Record<string, unknown> };
}

/** How often it looks: a machine that is stopping can be started once it has stopped. */
const LOOKS_MAX = 6;

export interface Wake {
  /** Whether a worker has taken the command over. */
  applied: () => Promise<boolean>;
  /** Between two looks. */
  pauseMs: number;
}

/** Answers what it did: the id of the machine it started, or undefined. */
export async function wake(settings: FlySettings, options: Wake): Promise<string | undefined> {
  for (let look = 1; look <= LOOKS_MAX; look++) {
    if (look > 1) {
      await new Promise((resolve) => setTimeout(resolve, options.pauseMs));
      if (await options.applied()) return undefined;
    }
    const machines = (await call(settings, "GET", "machines") as Machine[])
      .filter((machine) => {
        const group = machine.config?.metadata?.fly_process_group;
        return group === undefined || group === settings.processGroup;
      });
    if (machines.length === 0) throw new Error("the app has no such machine");
    // One that runs takes the command, unless it is about to stop: then look again.
    if (machines.some(({ state }) => state === "started" || state === "starting")) continue;
    for (const { id, state } of machines) {
      if (!["stopped", "suspended", "created"].includes(String(state))) continue;
      try {
        await call(settings, "POST", `machines/${encodeURIComponent(String(id))}/start`);
        return String(id);
      } catch (error) {
        // Its host may be full: the next one.
        console.warn(JSON.stringify({ event: "machine not started", error: String(error) }));
      }
    }
  }
  return undefined;
}

async function call(settings: FlySettings, method: string, path: string): Promise<unknown> {
  const response = await fetch(
    `${settings.api}/v1/apps/${encodeURIComponent(settings.app)}/${path}`,
    {
      method,
      headers: { authorization: `Bearer ${settings.token}` },
      redirect: "error",
      signal: AbortSignal.timeout(5000),
    },
  );
  if (!response.ok) {
    await response.body?.cancel();
    throw new Error(`the Machines API answered ${response.status} to ${method}`);
  }
  return await response.json();
}
