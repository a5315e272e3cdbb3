// The commands that the worker reads. Its tests and the function's read the same golden files, in
// tests/fixtures/commands.

export interface Command {
  id: string;
  command: "start" | "stop";
  userId: string;
  /** The id's digits: an id may need more than the 53 bits of a number. */
  accountId?: string;
  /** RFC 3339, with microseconds. */
  issuedAt: string;
}

/** Returns the command's JSON, in which the account's id is a number. */
export function commandJson(command: Command): string {
  const account = command.accountId === undefined ? "" : `"accountId":${command.accountId},`;
  return `{"id":${JSON.stringify(command.id)},"command":${JSON.stringify(command.command)},` +
    `"userId":${JSON.stringify(command.userId)},${account}"issuedAt":${JSON.stringify(command.issuedAt)}}`;
}

let lastIssuedMicros = 0;

/**
 * Returns the current time in RFC 3339, with microseconds. The clock counts milliseconds, so commands of the
 * same millisecond get consecutive microseconds: the command with the latest time wins.
 */
export function nextIssuedAt(now = Date.now()): string {
  lastIssuedMicros = Math.max(now * 1000, lastIssuedMicros + 1);
  const seconds = new Date(Math.floor(lastIssuedMicros / 1_000_000) * 1000).toISOString().slice(0, 19);
  return `${seconds}.${String(lastIssuedMicros % 1_000_000).padStart(6, "0")}Z`;
}

export function newCommand(
  command: "start" | "stop",
  userId: string,
  accountId: string | undefined,
): Command {
  return { id: crypto.randomUUID(), command, userId, accountId, issuedAt: nextIssuedAt() };
}
