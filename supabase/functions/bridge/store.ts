// The database, as the role `bridge_app` may use it.
//
// Plain SQL over a small pool, not PostgREST: the schema `bridge` is closed to Supabase's API, and to
// disconnect takes a transaction around the publish. No statement is prepared under a name, so that
// Supabase's transaction pooler serves too. Values are always parameters.

import postgres from "postgres";
import { Deadline, TimedOut } from "./deadline.ts";
import { Refusal } from "./errors.ts";

/** A warm isolate handles a few requests at once; the database has to serve many isolates. */
const CONNECTIONS_MAX = 3;

/** A warm connection may be dead without knowing: then enough has to be left for a fresh one. */
const WARM_MS = 1200;

/** How long a pool that was given up may go on for those who have an answer coming. */
const CLOSING_SECS = 3;

/** A connected row is written every 2 s; one that missed five of them does not follow the stream. */
export const STALE_SECS = 10;

/** How many consents one user may have under way. */
const STATES_MAX = 5;

/** What one page of sessions has at most. */
export const SESSIONS_MAX = 1000;

export interface Account {
  accountId: string;
  isDemo: boolean;
}

export interface CacheStatus {
  connected: boolean;
  accountId: string | null;
  lastUpdate: string | null;
  balance: number | null;
  equity: number | null;
  positions: number;
}

export interface SessionStatus {
  userId: string;
  isConnected: boolean;
  accountId: string | null;
  lastUpdate: string | null;
  balance: number | null;
  positions: number;
}

export interface Grant {
  accessToken: string;
  refreshToken: string;
  expiresAt: Date | null;
  accounts: Account[];
}

type Sql = postgres.Sql<Record<string, unknown>>;
type Tx = postgres.TransactionSql<Record<string, unknown>>;

export class Store {
  readonly #open: () => Sql;
  readonly #closing = new Set<Promise<void>>();
  #sql: Sql;

  constructor(url: string, ca?: string) {
    this.#open = () =>
      postgres(url, {
        max: CONNECTIONS_MAX,
        idle_timeout: 20,
        connect_timeout: 3,
        prepare: false,
        fetch_types: false,
        onnotice: () => {},
        connection: { application_name: "edge function bridge" },
        // Without it TLS is as the URL says: `sslmode=require` encrypts, and believes any certificate.
        ...(ca === undefined ? {} : { ssl: { ca } }),
      });
    this.#sql = this.#open();
  }

  async close(): Promise<void> {
    await Promise.all([this.#sql.end({ timeout: 1 }), ...this.#closing]);
  }

  /** The accounts a start may mean: all of the user's, or the one that was named. */
  async account(
    userId: string,
    accountId: string | undefined,
    deadline: Deadline,
  ): Promise<Account> {
    const rows = await this.#ask(
      deadline,
      (sql) =>
        sql`select account_id::text as id, is_live, is_primary from bridge.credentials
          where user_id = ${userId} order by is_primary desc, account_id`,
    );
    if (rows.length === 0) {
      throw new Refusal(404, "no cTrader account is connected");
    }
    const named = rows.find((row) => row.id === accountId);
    if (accountId !== undefined && named === undefined) {
      throw new Refusal(404, "this cTrader account is not connected");
    }
    // As the worker decides it: the primary account, or else the only one.
    const meant = named ?? (rows[0]?.is_primary || rows.length === 1 ? rows[0] : undefined);
    if (meant === undefined) {
      throw new Refusal(409, "several cTrader accounts are connected and none is primary: name one");
    }
    return { accountId: String(meant.id), isDemo: meant.is_live === false };
  }

  /** Whether a row of the user's, or that of one account, follows its stream now. */
  async isConnected(
    userId: string,
    accountId: string | undefined,
    deadline: Deadline,
  ): Promise<boolean> {
    const [row] = await this.#ask(
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

  /** The row of the named account, of the primary one, or of the one that was written last. */
  async status(
    userId: string,
    accountId: string | undefined,
    deadline: Deadline,
  ): Promise<CacheStatus> {
    const [row] = await this.#ask(
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
    const known = row === undefined ? accountId ?? null : accountOf(row.id);
    return {
      connected: row?.connected === true,
      accountId: known ?? await this.#primary(userId, deadline),
      lastUpdate: time(row?.updated_at),
      balance: number(row?.balance),
      equity: number(row?.equity),
      positions: number(row?.position_count) ?? 0,
    };
  }

  /** The account that a start would mean, if there is one. */
  async #primary(userId: string, deadline: Deadline): Promise<string | null> {
    try {
      return (await this.account(userId, undefined, deadline)).accountId;
    } catch (error) {
      if (error instanceof Refusal && error.status !== 503) return null;
      throw error;
    }
  }

  /** The sessions that are wanted, a page of them, and how many there are. */
  async sessions(
    limit: number,
    offset: number,
    deadline: Deadline,
  ): Promise<{ total: number; sessions: SessionStatus[] }> {
    const rows = await this.#ask(
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
      accountId: accountOf(row.id),
      lastUpdate: time(row.updated_at),
      balance: number(row.balance),
      positions: number(row.position_count) ?? 0,
    }));
    return { total: number(rows[0]?.total) ?? 0, sessions };
  }

  /** How many rows are live, how many sessions are wanted, how many workers are there. */
  async fleet(
    deadline: Deadline,
  ): Promise<{ activeSessions: number; wanted: number; workers: number }> {
    const [row] = await this.#ask(
      deadline,
      (sql) =>
        sql`select
            (select count(*) from public.ctrader_cache
              where is_connected and updated_at > now() - ${STALE_SECS} * interval '1 second') as active,
            (select count(*) from bridge.sessions where desired = 'running') as wanted,
            -- 0x6D616877: a worker holds the lock of its number; the row of one that was killed may still be
            -- there, its lock is not. The others look at it with a shared one.
            (select count(distinct w.worker_id) from bridge.workers w
              join pg_locks l on l.locktype = 'advisory' and l.classid::bigint = 1835100279
                and l.objid::bigint = w.number and l.granted and l.mode = 'ExclusiveLock'
              join pg_database d on d.oid = l.database and d.datname = current_database()) as workers`,
    );
    return {
      activeSessions: number(row?.active) ?? 0,
      wanted: number(row?.wanted) ?? 0,
      workers: number(row?.workers) ?? 0,
    };
  }

  /** Whether a worker has applied a command of this user that was issued then, or later. */
  async applied(userId: string, issuedAt: string, deadline: Deadline): Promise<boolean> {
    const [row] = await this.#ask(
      deadline,
      (sql) =>
        sql`select exists (
            select from bridge.sessions
            where user_id = ${userId} and command_issued_at >= ${issuedAt}::text::timestamptz
          ) as applied`,
    );
    return row?.applied === true;
  }

  /** Notes that a consent was begun; of a user who begins many, the latest few count. */
  async beginConsent(
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
          order by created_at desc offset ${STATES_MAX - 1}
        )`;
      await tx`insert into bridge.oauth_states (state_hash, user_id, expires_at)
        values (${stateHash}, ${userId}, now() + ${lifetimeSecs} * interval '1 second')`;
    });
  }

  /** Takes a consent: true once, for the user who began it, and in time. */
  async takeConsent(stateHash: string, userId: string, deadline: Deadline): Promise<boolean> {
    const rows = await this.#ask(
      deadline,
      (sql) =>
        sql`delete from bridge.oauth_states
          where state_hash = ${stateHash} and user_id = ${userId}
          returning expires_at > now() as in_time`,
    );
    return rows[0]?.in_time === true;
  }

  /** Stores a grant for its accounts, and answers which of the user's accounts is primary then. */
  async storeGrant(userId: string, grant: Grant, deadline: Deadline): Promise<string> {
    return await this.#transaction(deadline, async (tx) => {
      // Two consents of one user, one after the other: neither may miss the other's primary account.
      await tx`select pg_advisory_xact_lock(hashtextextended('bridge.credentials ' || ${userId}, 0))`;
      for (const account of grant.accounts) {
        const stored = await tx`update bridge.credentials set
            is_live = ${!account.isDemo}, access_token = ${grant.accessToken},
            refresh_token = ${grant.refreshToken}, expires_at = ${grant.expiresAt}
          where user_id = ${userId} and account_id = ${account.accountId}::text::bigint`;
        if (stored.count > 0) continue;
        // Not an upsert: that would have to read the token it was given, and this role reads none.
        await tx`insert into bridge.credentials
            (user_id, account_id, is_live, is_primary, access_token, refresh_token, expires_at)
          values (${userId}, ${account.accountId}::text::bigint, ${!account.isDemo}, false,
            ${grant.accessToken}, ${grant.refreshToken}, ${grant.expiresAt})`;
      }
      const [chosen] = grant.accounts;
      await tx`update bridge.credentials set is_primary = true
        where user_id = ${userId} and account_id = ${chosen?.accountId ?? null}::text::bigint
          and not exists (select from bridge.credentials where user_id = ${userId} and is_primary)`;
      const [primary] = await tx`select account_id::text as id from bridge.credentials
        where user_id = ${userId} and is_primary`;
      return String(primary?.id);
    });
  }

  /** Forgets the user's grants, if `stop` succeeds while they are as good as gone. */
  async forget(userId: string, stop: () => Promise<void>, deadline: Deadline): Promise<number> {
    return await this.#transaction(deadline, async (tx) => {
      const gone = await tx`delete from bridge.credentials where user_id = ${userId}`;
      await tx`delete from bridge.oauth_states where user_id = ${userId}`;
      await stop();
      return gone.count;
    });
  }

  /** Only reads, or what may be done twice: it is, if the first time was over a dead connection. */
  async #ask(
    deadline: Deadline,
    build: (sql: Sql) => postgres.PendingQuery<postgres.Row[]>,
  ): Promise<postgres.Row[]> {
    try {
      return await this.#once(deadline, WARM_MS, build);
    } catch (error) {
      if (!(error instanceof TimedOut) || deadline.left() === 0) throw error;
      return await this.#once(deadline, Infinity, build);
    }
  }

  async #once(
    deadline: Deadline,
    ms: number,
    build: (sql: Sql) => postgres.PendingQuery<postgres.Row[]>,
  ): Promise<postgres.Row[]> {
    const sql = this.#sql;
    const query = build(sql);
    // What a lazy query does when it is awaited, and cancelled when it comes too late.
    const rows = query.execute();
    try {
      return await deadline.wait("the database", Promise.resolve(rows), ms);
    } catch (error) {
      query.cancel();
      if (error instanceof TimedOut) this.#giveUp(sql);
      throw refusal(error);
    }
  }

  /** Others may have a new pool by now. */
  #giveUp(sql: Sql): void {
    if (this.#sql !== sql) return;
    this.#sql = this.#open();
    const closed = sql.end({ timeout: CLOSING_SECS }).catch(() => {}).finally(() =>
      this.#closing.delete(closed)
    );
    this.#closing.add(closed);
  }

  async #transaction<T>(deadline: Deadline, work: (tx: Tx) => Promise<T>): Promise<T> {
    const sql = this.#sql;
    try {
      const done = sql.begin(async (tx) => {
        // Its locks go with it, should this isolate be frozen in the middle.
        await tx`select set_config('statement_timeout', '3s', true),
          set_config('idle_in_transaction_session_timeout', '5s', true)`;
        const answer = await work(tx);
        // Nobody waits for the answer any more, and was told that nothing happened.
        if (deadline.left() === 0) throw new Refusal(503, "the database was too slow");
        return answer;
      });
      return await deadline.wait("the database", done as Promise<T>);
    } catch (error) {
      if (error instanceof TimedOut) this.#giveUp(sql);
      throw refusal(error);
    }
  }
}

/** An error of the server's own that goes away by itself, or a connection that cannot be had. */
function refusal(error: unknown): unknown {
  if (error instanceof Refusal) return error;
  const code = String((error as { code?: unknown })?.code ?? "");
  const passing = /^(08|53|57|55P03|25P0|40)/.test(code) || /^(CONNECT|E[A-Z]+$)/.test(code);
  if (!passing) return error;
  return new Refusal(503, "the database cannot be reached", { "retry-after": "2" }, { cause: error });
}

/** 0 stands for a primary account that is not known. */
function accountOf(id: unknown): string | null {
  return id === "0" || id === null || id === undefined ? null : String(id);
}

function number(value: unknown): number | null {
  return value === null || value === undefined ? null : Number(value);
}

function time(value: unknown): string | null {
  return value instanceof Date ? value.toISOString() : null;
}
