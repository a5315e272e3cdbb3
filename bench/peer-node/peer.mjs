// The baseline of scripts/load: what the bridge would be in Node with one socket per user. It logs in, takes a
// snapshot, subscribes, values positions at every quote and upserts a row per user every two seconds.
// It does the happy path only: no reconnects, orders, deals, tokens or claims.
//
//   node peer.mjs <sessions.json>     [{ "user", "account", "token" }, …]
//   PEER_URL, PEER_CLIENT_ID, PEER_CLIENT_SECRET, DATABASE_URL
//   PEER_ROWS=0 writes nothing, PEER_ARITHMETIC=0 decodes quotes and drops them.
//
// Once a second it prints { "live", "events", "rows" } as a line of JSON.

import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import pg from "pg";
import protobuf from "protobufjs";
import WebSocket from "ws";

const WRITE_EVERY_MS = 2_000;
const HEARTBEAT_EVERY_MS = 10_000;
const CONNECTS_AT_ONCE = 25;

const proto = (name) => fileURLToPath(new URL(`../../proto/${name}.proto`, import.meta.url));
const root = protobuf.loadSync(
  ["OpenApiCommonMessages", "OpenApiMessages"].map(proto),
  new protobuf.Root(),
  { keepCase: true },
);
protobuf.util.Long = null; // numbers: ids and prices of the simulator fit 53 bits
protobuf.configure();
const type = (name) => root.lookupType(name);
const ProtoMessage = type("ProtoMessage");
const types = {
  2100: type("ProtoOAApplicationAuthReq"),
  2102: type("ProtoOAAccountAuthReq"),
  2121: type("ProtoOATraderReq"),
  2122: type("ProtoOATraderRes"),
  2124: type("ProtoOAReconcileReq"),
  2125: type("ProtoOAReconcileRes"),
  2116: type("ProtoOASymbolByIdReq"),
  2114: type("ProtoOASymbolsListReq"),
  2115: type("ProtoOASymbolsListRes"),
  2118: type("ProtoOASymbolsForConversionReq"),
  2119: type("ProtoOASymbolsForConversionRes"),
  2127: type("ProtoOASubscribeSpotsReq"),
  2131: type("ProtoOASpotEvent"),
  2142: type("ProtoOAErrorRes"),
};
const { PEER_URL, PEER_CLIENT_ID, PEER_CLIENT_SECRET, DATABASE_URL } = process.env;
const writesRows = process.env.PEER_ROWS !== "0";
const doesArithmetic = process.env.PEER_ARITHMETIC !== "0";

const pool = new pg.Pool({ connectionString: DATABASE_URL, max: 10 });
await pool.query(`create table if not exists peer_cache (
  user_key text primary key, account_id bigint, balance numeric, equity numeric, unrealized_net numeric,
  used_margin numeric, positions jsonb, updated_at timestamptz)`);

let events = 0;
let rows = 0;
let live = 0;

class Session {
  constructor({ user, account, token }) {
    this.key = createHash("sha256").update(user).digest("hex");
    this.account = account;
    this.token = token;
    this.next = 1;
    this.waiting = new Map();
    this.quotes = new Map();
    this.chains = new Map();
    this.positions = [];
    this.isLive = false;
  }

  async start() {
    this.socket = new WebSocket(PEER_URL, { perMessageDeflate: false });
    this.socket.binaryType = "nodebuffer";
    await new Promise((resolve, reject) => {
      this.socket.once("open", resolve);
      this.socket.once("error", reject);
    });
    this.socket.on("message", (data) => this.receive(data));
    this.socket.on("close", () => {
      console.error(`the socket of account ${this.account} closed`);
      process.exit(1);
    });
    setInterval(() => this.send(51, new Uint8Array()), HEARTBEAT_EVERY_MS);
    const of = { ctidTraderAccountId: this.account };
    await this.ask(2100, { clientId: PEER_CLIENT_ID, clientSecret: PEER_CLIENT_SECRET });
    await this.ask(2102, { ...of, accessToken: this.token });
    this.trader = (await this.ask(2121, of)).trader;
    this.digits = this.trader.moneyDigits ?? 2;
    this.positions = (await this.ask(2124, of)).position;
    const symbols = new Map();
    for (const symbol of (await this.ask(2114, of)).symbol) symbols.set(symbol.symbolId, symbol);
    const wanted = new Set();
    for (const position of this.positions) {
      const symbol = symbols.get(position.tradeData.symbolId);
      wanted.add(symbol.symbolId);
      const quote = symbol.quoteAssetId;
      if (quote !== this.trader.depositAssetId && !this.chains.has(quote)) {
        const chain = (await this.ask(2118, {
          ...of,
          firstAssetId: quote,
          lastAssetId: this.trader.depositAssetId,
        })).symbol;
        let reached = quote;
        const steps = chain.map((step) => {
          const multiply = step.baseAssetId === reached;
          reached = multiply ? step.quoteAssetId : step.baseAssetId;
          wanted.add(step.symbolId);
          return { symbol: step.symbolId, multiply };
        });
        this.chains.set(quote, steps);
      }
      position.quoteAsset = quote;
    }
    this.isLive = true;
    live += 1;
    await this.ask(2127, { ...of, symbolId: [...wanted] });
    if (writesRows) {
      // Not all in one moment.
      setTimeout(() => setInterval(() => this.write(), WRITE_EVERY_MS), Math.random() * WRITE_EVERY_MS);
    }
  }

  send(payloadType, payload, clientMsgId) {
    this.socket.send(ProtoMessage.encode({ payloadType, payload, clientMsgId }).finish());
  }

  ask(payloadType, body) {
    const id = String(this.next++);
    const answer = new Promise((resolve, reject) => this.waiting.set(id, { resolve, reject }));
    this.send(payloadType, types[payloadType].encode(body).finish(), id);
    return answer;
  }

  receive(data) {
    const { payloadType, payload, clientMsgId } = ProtoMessage.decode(data);
    if (payloadType === 2131) {
      events += 1;
      const spot = types[2131].decode(payload);
      if (doesArithmetic) this.apply(spot);
      return;
    }
    const waiter = this.waiting.get(clientMsgId);
    if (!waiter) return;
    this.waiting.delete(clientMsgId);
    const message = types[payloadType]?.decode(payload);
    if (payloadType === 2142) {
      waiter.reject(new Error(`account ${this.account}: ${message.errorCode}`));
    } else {
      waiter.resolve(message);
    }
  }

  apply(spot) {
    let quote = this.quotes.get(spot.symbolId);
    if (!quote) this.quotes.set(spot.symbolId, quote = { bid: 0, ask: 0 });
    if (spot.bid) quote.bid = spot.bid / 100_000;
    if (spot.ask) quote.ask = spot.ask / 100_000;
    let net = 0;
    for (const position of this.positions) {
      const { symbolId, tradeSide, volume } = position.tradeData;
      const priced = this.quotes.get(symbolId);
      if (!priced) return;
      let rate = 1;
      for (const step of this.chains.get(position.quoteAsset) ?? []) {
        const bid = this.quotes.get(step.symbol)?.bid;
        if (!bid) return;
        rate = step.multiply ? rate * bid : rate / bid;
      }
      const move = tradeSide === 1 ? priced.bid - position.price : position.price - priced.ask;
      position.gross = move * (volume / 100) * rate;
      net += position.gross + (position.swap + (position.commission ?? 0)) / 10 ** this.digits;
    }
    this.net = net;
    this.equity = this.trader.balance / 10 ** this.digits + net;
  }

  async write() {
    const unit = 10 ** this.digits;
    const positions = this.positions.map((position) => ({
      id: position.positionId,
      symbol_id: position.tradeData.symbolId,
      side: position.tradeData.tradeSide === 1 ? "BUY" : "SELL",
      volume: position.tradeData.volume / 100,
      entry: position.price,
      gross: position.gross,
      swap: position.swap / unit,
      commission: (position.commission ?? 0) / unit,
      used_margin: (position.usedMargin ?? 0) / unit,
    }));
    const margin = this.positions.reduce((sum, position) => sum + (position.usedMargin ?? 0), 0) / unit;
    try {
      await pool.query({
        name: "row",
        text: `insert into peer_cache values ($1, $2, $3, $4, $5, $6, $7, clock_timestamp())
          on conflict (user_key) do update set balance = excluded.balance, equity = excluded.equity,
            unrealized_net = excluded.unrealized_net, used_margin = excluded.used_margin,
            positions = excluded.positions, updated_at = excluded.updated_at`,
        values: [
          this.key,
          this.account,
          this.trader.balance / unit,
          this.equity,
          this.net,
          margin,
          JSON.stringify(positions),
        ],
      });
      rows += 1;
    } catch (error) {
      console.error(`a row could not be written: ${error.message}`);
      process.exit(1);
    }
  }
}

setInterval(() => console.log(JSON.stringify({ live, events, rows })), 1_000);
const sessions = JSON.parse(readFileSync(process.argv[2], "utf8")).map((given) => new Session(given));
for (let at = 0; at < sessions.length; at += CONNECTS_AT_ONCE) {
  await Promise.all(sessions.slice(at, at + CONNECTS_AT_ONCE).map((session) => session.start()));
}
