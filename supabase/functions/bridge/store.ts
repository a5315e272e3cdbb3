// The database, with the rights of the role `bridge_app`.
//
// Queries are plain SQL over a small pool. PostgREST does not serve: the schema `bridge` is closed to
// Supabase's API, and disconnecting needs a transaction around a publish. Statements are not prepared by name,
// so that Supabase's transaction pooler works, too. Values are always parameters.

import postgres from "postgres";
import type { Account, Sessions, WebSocketStatus } from "./api.ts";
import { Deadline, TimeoutError } from "./deadline.ts";
import { HttpError } from "./errors.ts";

/** An isolate handles a few requests at once, and the database serves many isolates. */
const CONNECTIONS_MAX = 3;

/** A warm connection may be dead without notice: this leaves enough time for a retry on a new one. */
const WARM_TIMEOUT_MS = 1200;

/** How long the queries of a discarded pool may still run. */
const CLOSE_TIMEOUT_SECS = 3;

/** A connected row is written every 2 s. A row that missed five writes does not follow the stream. */
export const STALE_SECS = 10;

/** The number of unfinished consents that a user may have. */
const CONSENTS_MAX = 5;

/** The size of a page of sessions. */
export const SESSIONS_MAX = 1000;

/** The tokens of a consent, encrypted or not, and the accounts that they give access to. */
export interface Grant {
  accessToken: string;
  refreshToken: string;
  expiresAt: Date | null;
  accounts: Account[];
}

type Sql = postgres.Sql<Record<string, unknown>>;
type Tx = postgres.TransactionSql<Record<string, unknown>>;

export class Store {
  readonly #openPool: () => Sql;
  /** Discarded pools that are not closed yet. */
  readonly #closing = new Set<Promise<void>>();
  #sql: Sql;

  constructor(url: string, ca?: string) {
    this.#openPool = () =>
      postgres(url, {
        max: CONNECTIONS_MAX,
        idle_timeout: 20,
        connect_timeout: 3,
        prepare: false,
        fetch_types: false,
        onnotice: () => {},
        connection: { application_name: "edge function bridge" },
        // Without a CA the URL decides about TLS: `sslmode=require` encrypts, and accepts any certificate.
        ...(ca === undefined ? {} : { ssl: { ca } }),
      });
    this.#sql = this.#openPool();
  }

  async close(): Promise<void> {
    await Promise.all([this.#sql.end({ timeout: 1 }), ...this.#closing]);
  }

  /** Returns the account that a start command is for: the named one, the primary one, or the only one. */
  async resolveAccount(
    userId: string,
    accountId: string | undefined,
    deadline: Deadline,
  ): Promise<Account> {
    const rows = await this.#query(
      deadline,
      (sql) =>
        sql`select account_id::text as id, is_live, is_primary from bridge.credentials
          where user_id = ${userId} order by is_primary desc, account_id`,
    );
    if (rows.length === 0) {
      throw new HttpError(404, "no cTrader account is connected");
    }
    const named = rows.find((row) => row.id === accountId);
    if (accountId !== undefined && named === undefined) {
      throw new HttpError(404, "this cTrader account is not connected");
    }
    // The worker chooses by the same rule.
    const resolved = named ?? (rows[0]?.is_primary || rows.length === 1 ? rows[0] : undefined);
    if (resolved === undefined) {
      throw new HttpError(409, "several cTrader accounts are connected and none is primary: name one");
    }
    return { accountId: String(resolved.id), isDemo: resolved.is_live === false };
  }

  /** Returns whether any row of the user, or the row of the named account, follows its stream now. */
  async isConnected(
    userId: string,
    accountId: string | undefined,
    deadline: Deadline,
  ): Promise<boolean> {
    const [row] = await this.#query(
      deadline,
      (sql) =>
        sql`select exists (
            select from public.ctrader_cache
            where user_key = encode(sha256(convert_to(${userId}, 'UTF8')), 'hex')
              and (${accountId ?? null}::bigint is null or account_id = ${accountId ?? null}::bigint)
              and is_connected and updated_at > now() - ${STALE_SECS} * interval '1 second'
          ) as connected`,
    );
    return row?.connected === true;
  }

  /** Returns the row of the named account, of the primary one, or else the row that was written last. */
  async status(
    userId: string,
    accountId: string | undefined,
    deadline: Deadline,
  ): Promise<WebSocketStatus> {
    const [row] = await this.#query(
      deadline,
      (sql) =>
        sql`select c.account_id::text as id, c.updated_at, c.balance, c.equity, c.position_count,
            c.is_connected and c.updated_at > now() - ${STALE_SECS} * interval '1 second' as connected
          from public.ctrader_cache c
          left join bridge.credentials k on k.user_id = ${userId} and k.account_id = c.account_id
          where c.user_key = encode(sha256(convert_to(${userId}, 'UTF8')), 'hex')
            and (${accountId ?? null}::bigint is null or c.account_id = ${accountId ?? null}::bigint)
          order by coalesce(k.is_primary, false) desc, c.is_connected desc, c.updated_at desc
          limit 1`,
    );
    const known = row === undefined ? accountId ?? null : toAccountId(row.id);
    return {
      connected: row?.connected === true,
      accountId: known ?? await this.#resolvedAccountId(userId, deadline),
      lastUpdate: toTimestamp(row?.updated_at),
      balance: toNumber(row?.balance),
      equity: toNumber(row?.equity),
      positions: toNumber(row?.position_count) ?? 0,
    };
  }

  /** Returns the account that a start command without an account would be for, if there is one. */
  async #resolvedAccountId(userId: string, deadline: Deadline): Promise<string | null> {
    try {
      return (await this.resolveAccount(userId, undefined, deadline)).accountId;
    } catch (error) {
      if (error instanceof HttpError && error.status !== 503) return null;
      throw error;
    }
  }

  /** Returns one page of the sessions that should be running, and the number of all of them. */
  async sessions(
    limit: number,
    offset: number,
    deadline: Deadline,
  ): Promise<Sessions> {
    const rows = await this.#query(
      deadline,
      (sql) =>
        sql`select wanted.total, s.user_id, s.account_id::text as id, c.updated_at, c.balance,
            c.position_count,
            c.is_connected and c.updated_at > now() - ${STALE_SECS} * interval '1 second' as connected
          from (select count(*) as total from bridge.sessions where desired = 'running') as wanted
          left join lateral (
            select user_id, account_id from bridge.sessions where desired = 'running'
            order by user_id, account_id limit ${limit} offset ${offset}
          ) as s on true
          left join public.ctrader_cache c
            on c.user_key = encode(sha256(convert_to(s.user_id, 'UTF8')), 'hex')
            and c.account_id = s.account_id
          order by s.user_id, s.account_id`,
    );
    const sessions = rows.filter((row) => row.user_id !== null).map((row) => ({
      userId: String(row.user_id),
      isConnected: row.connected === true,
      accountId: toAccountId(row.id),
      lastUpdate: toTimestamp(row.updated_at),
      balance: toNumber(row.balance),
      positions: toNumber(row.position_count) ?? 0,
    }));
    return { total: toNumber(rows[0]?.total) ?? 0, sessions };
  }

  /** Counts the rows that are live, the sessions that should be running, and the workers that are alive. */
  async fleet(
    deadline: Deadline,
  ): Promise<{ activeSessions: number; wanted: number; workers: number }> {
    const [row] = await this.#query(
      deadline,
      (sql) =>
        sql`select
            (select count(*) from public.ctrader_cache
              where is_connected and updated_at > now() - ${STALE_SECS} * interval '1 second') as active,
            (select count(*) from bridge.sessions where desired = 'running') as wanted,
            -- 0x6D616877: each worker holds the lock of its number in exclusive mode. A killed worker may leave
            -- its row behind, but not its lock. Other workers probe the lock in shared mode.
            (select count(distinct w.worker_id) from bridge.workers w
              join pg_locks l on l.locktype = 'advisory' and l.classid::bigint = 1835100279
                and l.objid::bigint = w.number and l.granted and l.mode = 'ExclusiveLock'
              join pg_database d on d.oid = l.database and d.datname = current_database()) as workers`,
    );
    return {
      activeSessions: toNumber(row?.active) ?? 0,
      wanted: toNumber(row?.wanted) ?? 0,
      workers: toNumber(row?.workers) ?? 0,
    };
  }

  /** Returns whether a worker has applied a command of this user that was issued at this time or later. */
  async isApplied(userId: string, issuedAt: string, deadline: Deadline): Promise<boolean> {
    const [row] = await this.#query(
      deadline,
      (sql) =>
        sql`select exists (
            select from bridge.sessions
            where user_id = ${userId} and command_issued_at >= ${issuedAt}::text::timestamptz
          ) as applied`,
    );
    return row?.applied === true;
  }

  /** Saves a consent that was begun. Of each user, the latest `CONSENTS_MAX` are kept. */
  async saveConsent(
    stateHash: string,
    userId: string,
    lifetimeSecs: number,
    deadline: Deadline,
  ): Promise<void> {
    await this.#transaction(deadline, async (tx) => {
      await tx`delete from bridge.oauth_states where state_hash in (
          select state_hash from bridge.oauth_states where expires_at < now() limit 100
        )`;
      await tx`delete from bridge.oauth_states where state_hash in (
          select state_hash from bridge.oauth_states where user_id = ${userId}
          order by created_at desc offset ${CONSENTS_MAX - 1}
        )`;
      await tx`insert into bridge.oauth_states (state_hash, user_id, expires_at)
        values (${stateHash}, ${userId}, now() + ${lifetimeSecs} * interval '1 second')`;
    });
  }

  /** Deletes a consent. Returns true only for the first call, for the user who began it, and in time. */
  async consumeConsent(stateHash: string, userId: string, deadline: Deadline): Promise<boolean> {
    const rows = await this.#query(
      deadline,
      (sql) =>
        sql`delete from bridge.oauth_states
          where state_hash = ${stateHash} and user_id = ${userId}
          returning expires_at > now() as in_time`,
    );
    return rows[0]?.in_time === true;
  }

  /** Saves a grant for each of its accounts. Returns which of the user's accounts is primary afterwards. */
  async saveGrant(userId: string, grant: Grant, deadline: Deadline): Promise<string> {
    return await this.#transaction(deadline, async (tx) => {
      // Two consents of one user are saved one after the other: each has to see the other's primary account.
      await tx`select pg_advisory_xact_lock(hashtextextended('bridge.credentials ' || ${userId}, 0))`;
      for (const account of grant.accounts) {
        const stored = await tx`update bridge.credentials set
            is_live = ${!account.isDemo}, access_token = ${grant.accessToken},
            refresh_token = ${grant.refreshToken}, expires_at = ${grant.expiresAt}
          where user_id = ${userId} and account_id = ${account.accountId}::text::bigint`;
        if (stored.count > 0) continue;
        // An upsert would have to read the stored token, which this role may not.
        await tx`insert into bridge.credentials
            (user_id, account_id, is_live, is_primary, access_token, refresh_token, expires_at)
          values (${userId}, ${account.accountId}::text::bigint, ${!account.isDemo}, false,
            ${grant.accessToken}, ${grant.refreshToken}, ${grant.expiresAt})`;
      }
      const [first] = grant.accounts;
      await tx`update bridge.credentials set is_primary = true
        where user_id = ${userId} and account_id = ${first?.accountId ?? null}::text::bigint
          and not exists (select from bridge.credentials where user_id = ${userId} and is_primary)`;
      const [primary] = await tx`select account_id::text as id from bridge.credentials
        where user_id = ${userId} and is_primary`;
      return String(primary?.id);
    });
  }

  /** Deletes the user's grants, if `beforeCommit` succeeds. Returns how many there were. */
  async deleteGrants(userId: string, beforeCommit: () => Promise<void>, deadline: Deadline): Promise<number> {
    return await this.#transaction(deadline, async (tx) => {
      const deleted = await tx`delete from bridge.credentials where user_id = ${userId}`;
      await tx`delete from bridge.oauth_states where user_id = ${userId}`;
      await beforeCommit();
      return deleted.count;
    });
  }

  /** Runs a query, and once more if a warm connection does not answer. So it must be safe to run twice. */
  async #query(
    deadline: Deadline,
    build: (sql: Sql) => postgres.PendingQuery<postgres.Row[]>,
  ): Promise<postgres.Row[]> {
    try {
      return await this.#queryOnce(deadline, WARM_TIMEOUT_MS, build);
    } catch (error) {
      if (!(error instanceof TimeoutError) || deadline.remainingMs() === 0) throw error;
      return await this.#queryOnce(deadline, Infinity, build);
    }
  }

  async #queryOnce(
    deadline: Deadline,
    limitMs: number,
    build: (sql: Sql) => postgres.PendingQuery<postgres.Row[]>,
  ): Promise<postgres.Row[]> {
    const sql = this.#sql;
    const query = build(sql);
    // A query is lazy: it is sent here. It is cancelled if it takes too long.
    const rows = query.execute();
    try {
      return await deadline.wait("the database", Promise.resolve(rows), limitMs);
    } catch (error) {
      query.cancel();
      if (error instanceof TimeoutError) this.#discard(sql);
      throw toHttpError(error);
    }
  }

  /** Replaces the pool, unless another request has replaced it already. */
  #discard(sql: Sql): void {
    if (this.#sql !== sql) return;
    this.#sql = this.#openPool();
    const closed = sql.end({ timeout: CLOSE_TIMEOUT_SECS }).catch(() => {}).finally(() =>
      this.#closing.delete(closed)
    );
    this.#closing.add(closed);
  }

  async #transaction<T>(deadline: Deadline, work: (tx: Tx) => Promise<T>): Promise<T> {
    const sql = this.#sql;
    try {
      const done = sql.begin(async (tx) => {
        // If this isolate is frozen in the middle, the server ends the transaction and frees its locks.
        await tx`select set_config('statement_timeout', '3s', true),
          set_config('idle_in_transaction_session_timeout', '5s', true)`;
        const result = await work(tx);
        // The caller was told that nothing happened, so nothing may be committed.
        if (deadline.remainingMs() === 0) throw new HttpError(503, "the database was too slow");
        return result;
      });
      return await deadline.wait("the database", done as Promise<T>);
    } catch (error) {
      if (error instanceof TimeoutError) this.#discard(sql);
      throw toHttpError(error);
    }
  }
}

/** Turns passing errors into an `HttpError` of 503: a failed connection, or a server that is not available. */
function toHttpError(error: unknown): unknown {
  if (error instanceof HttpError) return error;
  const code = String((error as { code?: unknown })?.code ?? "");
  const isPassing = /^(08|53|57|55P03|25P0|40)/.test(code) || /^(CONNECT|E[A-Z]+$)/.test(code);
  if (!isPassing) return error;
  return new HttpError(503, "the database cannot be reached", { "retry-after": "2" }, { cause: error });
}

/** In the cache, 0 stands for a primary account that is not known yet. */
function toAccountId(id: unknown): string | null {
  return id === "0" || id === null || id === undefined ? null : String(id);
}

function toNumber(value: unknown): number | null {
  return value === null || value === undefined ? null : Number(value);
}

function toTimestamp(value: unknown): string | null {
  return value instanceof Date ? value.toISOString() : null;
}
