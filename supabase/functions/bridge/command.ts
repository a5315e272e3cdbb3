// Commands, as the worker reads them. The golden files of tests/fixtures/commands hold for both.

export interface Command {
  id: string;
  command: "start" | "stop";
  userId: string;
  /** The digits: an id may need more than the 53 bits of a number. */
  accountId?: string;
  issuedAt: string;
}

/** The JSON, with the id's digits as a number. */
export function commandJson(command: Command): string {
  const account = command.accountId === undefined ? "" : `"accountId":${command.accountId},`;
  return `{"id":${JSON.stringify(command.id)},"command":${JSON.stringify(command.command)},` +
    `"userId":${JSON.stringify(command.userId)},${account}"issuedAt":${JSON.stringify(command.issuedAt)}}`;
}

let lastMicros = 0;

/**
 * Now, in microseconds. The clock has milliseconds; of two commands within one, the later has the later
 * time all the same, since the latest decides.
 */
export function issuedNow(now = Date.now()): string {
  lastMicros = Math.max(now * 1000, lastMicros + 1);
  const whole = new Date(Math.floor(lastMicros / 1_000_000) * 1000).toISOString().slice(0, 19);
  return `${whole}.${String(lastMicros % 1_000_000).padStart(6, "0")}Z`;
}

export function newCommand(
  command: "start" | "stop",
  userId: string,
  accountId: string | undefined,
): Command {
  return { id: crypto.randomUUID(), command, userId, accountId, issuedAt: issuedNow() };
}
