// Where workers scale to zero, a start command also starts a stopped machine of Fly's.
//
// This runs in the background after the command was confirmed. If it fails, the command waits in the queue,
// and the next start command tries again.

import type { FlySettings } from "./env.ts";

interface Machine {
  id?: unknown;
  state?: unknown;
  config?: { metadata?: Record<string, unknown> };
}

/** The number of polls: a machine that is stopping can be started once it has stopped. */
const POLLS_MAX = 6;

export interface StartMachineOptions {
  /** Returns whether a worker has applied the command. */
  isApplied: () => Promise<boolean>;
  /** Milliseconds between two polls. */
  pollMs: number;
}

/** Returns the id of the machine that was started, or undefined if none had to be. */
export async function startMachine(
  settings: FlySettings,
  { isApplied, pollMs }: StartMachineOptions,
): Promise<string | undefined> {
  for (let poll = 1; poll <= POLLS_MAX; poll++) {
    if (poll > 1) {
      await new Promise((resolve) => setTimeout(resolve, pollMs));
      if (await isApplied()) return undefined;
    }
    const machines = (await callApi(settings, "GET", "machines") as Machine[])
      .filter((machine) => {
        const group = machine.config?.metadata?.fly_process_group;
        return group === undefined || group === settings.processGroup;
      });
    if (machines.length === 0) throw new Error("the app has no such machine");
    // A running machine applies the command, unless it is about to stop: the next poll shows which.
    if (machines.some(({ state }) => state === "started" || state === "starting")) continue;
    for (const { id, state } of machines) {
      if (!["stopped", "suspended", "created"].includes(String(state))) continue;
      try {
        await callApi(settings, "POST", `machines/${encodeURIComponent(String(id))}/start`);
        return String(id);
      } catch (error) {
        // The machine's host may have no capacity, another machine's may.
        console.warn(JSON.stringify({ event: "machine not started", error: String(error) }));
      }
    }
  }
  return undefined;
}

async function callApi(settings: FlySettings, method: string, path: string): Promise<unknown> {
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
