// The types that the edge function and the browser module share: each route's request and response, and a row
// of the cache. Types only.
//
// packages/websocket-bridge/src/api.ts is a copy, because the function and the package are deployed and
// published separately. Change this file, then copy it; a test compares the two.

/** A trading account. */
export interface Account {
  /** The digits of cTrader's `ctidTraderAccountId`. */
  accountId: string;
  isDemo: boolean;
}

/** The body of `POST /api/start-websocket` and of `POST /api/stop-websocket`. */
export interface StreamRequest {
  userId: string;
  /** If it is missing: the primary account is started, or every account is stopped. */
  accountId?: string;
}

/** The body of `POST /api/ctrader/disconnect`. */
export interface DisconnectRequest {
  userId: string;
}

/** The response to `POST /api/start-websocket`. */
export interface Started extends Account {
  success: true;
  message: string;
}

/** The response to `POST /api/stop-websocket`. */
export interface Stopped {
  success: true;
  message: string;
  wasConnected: boolean;
}

/** The response to `GET /api/websocket-status/:userId`. */
export interface WebSocketStatus {
  /** The row follows the live stream, and was written within the last ten seconds. */
  connected: boolean;
  accountId: string | null;
  /** RFC 3339. */
  lastUpdate: string | null;
  /** In units of the account's currency. */
  balance: number | null;
  /** In units of the account's currency. */
  equity: number | null;
  /** The number of open positions. */
  positions: number;
}

/** A session in the response to `GET /api/sessions`. */
export interface Session {
  userId: string;
  isConnected: boolean;
  accountId: string | null;
  /** RFC 3339. */
  lastUpdate: string | null;
  /** In units of the account's currency. */
  balance: number | null;
  /** The number of open positions. */
  positions: number;
}

/** The response to `GET /api/sessions`. */
export interface Sessions {
  /** The number of all sessions that should be running. */
  total: number;
  /** One page of them. */
  sessions: Session[];
}

/** The response to `GET /health`. */
export interface Health {
  status: "ok" | "degraded";
  activeSessions: number;
  workers: number;
  /** RFC 3339. */
  timestamp: string;
}

/** The response to `GET /api/ctrader/connect`. */
export interface ConsentBegun {
  success: true;
  /** The page of cTrader's to send the user to. */
  url: string;
  state: string;
  /** RFC 3339. */
  expiresAt: string;
}

/** An account in the response to `GET /api/ctrader/callback`. */
export interface ConnectedAccount extends Account {
  traderLogin: string | null;
  isPrimary: boolean;
}

/** The response to `GET /api/ctrader/callback`. */
export interface Connected {
  success: true;
  message: string;
  accounts: ConnectedAccount[];
}

/** The response to `POST /api/ctrader/disconnect`. */
export interface Disconnected {
  success: true;
  message: string;
  /** The number of accounts whose grants were deleted. */
  accounts: number;
}

/** The body of every response whose status is 400 or above. */
export interface Failed {
  success: false;
  /** Can be shown to the user. */
  error: string;
}

/**
 * A position of a row. 64-bit ids are strings, times are RFC 3339, amounts are in units of the account's
 * currency. What is not set is null.
 */
export interface CachePosition {
  positionId: string;
  symbol: string | null;
  symbolId: string;
  side: "BUY" | "SELL";
  /** In units of the base asset. */
  volume: number;
  lots: number | null;
  entryPrice: number | null;
  currentPrice: number | null;
  stopLoss: number | null;
  takeProfit: number | null;
  swap: number | null;
  commission: number | null;
  grossProfit: number | null;
  netProfit: number | null;
  usedMargin: number | null;
  openedAt: string | null;
  label: string | null;
  comment: string | null;
}

/** A pending order of a row, with the same units. */
export interface CacheOrder {
  orderId: string;
  positionId: string | null;
  symbol: string | null;
  symbolId: string;
  side: "BUY" | "SELL";
  type: string;
  /** In units of the base asset. */
  volume: number;
  lots: number | null;
  limitPrice: number | null;
  stopPrice: number | null;
  stopLoss: number | null;
  takeProfit: number | null;
  expiresAt: string | null;
  createdAt: string | null;
  label: string | null;
  comment: string | null;
}

export type CacheStatus = "pending" | "connecting" | "live" | "reconnecting" | "failed" | "stopped";

/** A row of `public.ctrader_cache`: the current state of an account. Amounts are in units of `currency`. */
export interface CacheRow {
  /** The lower-case hex SHA-256 of the user's id. */
  user_key: string;
  /** cTrader's `ctidTraderAccountId`; 0 while the primary account is not known. */
  account_id: number;
  /** The account number that the user sees in cTrader. */
  trader_login: number | null;
  is_demo: boolean;
  /** The row follows the live stream, provided that it is still being written: see `WatchState.stale`. */
  is_connected: boolean;
  status: CacheStatus;
  /** Can be shown to the user. */
  last_error: string | null;
  currency: string | null;
  balance: number | null;
  equity: number | null;
  unrealized_gross: number | null;
  unrealized_net: number | null;
  used_margin: number | null;
  free_margin: number | null;
  bonus: number | null;
  /** In percent; null without positions. */
  margin_level: number | null;
  position_count: number;
  order_count: number;
  positions: CachePosition[];
  orders: CacheOrder[];
  balance_version: number | null;
  /** The last event that changed the row, RFC 3339. */
  event_at: string | null;
  /** The last write, RFC 3339. */
  updated_at: string;
  /** Rows are ordered by `epoch`, then by `seq`. */
  epoch: number;
  seq: number;
}
