// Publishes commands to RabbitMQ: over one warm connection with a channel in confirm mode, with one retry on a
// new connection.
//
// A command is published once the broker has confirmed it and has not returned it as unroutable. The retry
// sends the same id, and applying a command twice changes nothing.

import { Buffer } from "node:buffer";
import amqp, { type ChannelModel, type ConfirmChannel } from "amqplib";
import { type Command, commandJson } from "./command.ts";
import type { Deadline } from "./deadline.ts";
import { HttpError } from "./errors.ts";

const EXCHANGE = "bridge.commands";

/** A warm connection may be dead without notice: this leaves enough time for a retry on a new one. */
const WARM_TIMEOUT_MS = 1200;
/** Later requests do not share a connection attempt that takes longer than this: they begin another. */
const OPEN_TIMEOUT_MS = 1200;
/** A discarded connection that is not closed in order after this time is destroyed. */
const CLOSE_TIMEOUT_MS = 1000;

export class CommandPublisher {
  readonly #url: string;
  #connection: Connection | undefined;
  #opening: { connection: Promise<Connection>; since: number } | undefined;

  /** Discarded connections that are not closed yet. */
  readonly #closing = new Set<Promise<void>>();

  constructor(url: string) {
    this.#url = url;
  }

  /** Resolves once the broker has stored the command in a queue, else rejects with an `HttpError` of 503. */
  async publish(command: Command, deadline: Deadline): Promise<void> {
    const isWarm = this.#connection !== undefined;
    try {
      try {
        await this.#attempt(command, deadline, isWarm ? WARM_TIMEOUT_MS : Infinity);
      } catch (error) {
        if (error instanceof CommandRejected || deadline.remainingMs() === 0) throw error;
        await this.#attempt(command, deadline, Infinity);
      }
    } catch (error) {
      if (error instanceof CommandRejected) throw error;
      throw new HttpError(503, "the command queue cannot be reached; nothing was changed", {
        "retry-after": "2",
      }, { cause: error });
    }
  }

  /** Returns whether there is a connection, or one can be opened within `limitMs`. */
  async isReachable(deadline: Deadline, limitMs: number): Promise<boolean> {
    try {
      await deadline.wait("the command queue", this.#open(), limitMs);
      return true;
    } catch {
      return false;
    }
  }

  async close(): Promise<void> {
    const opening = this.#opening?.connection;
    const connection = this.#connection;
    this.#connection = this.#opening = undefined;
    await Promise.all([
      connection?.close(),
      opening?.then((connection) => connection.close(), () => {}),
      ...this.#closing,
    ]);
  }

  async #attempt(command: Command, deadline: Deadline, limitMs: number): Promise<void> {
    let used: Connection | undefined;
    try {
      const work = this.#open().then((connection) => {
        used = connection;
        return connection.publish(command);
      });
      await deadline.wait("the command queue", work, limitMs);
    } catch (error) {
      // A rejected command does not mean that the connection is broken. Any other error does; another
      // request may have opened a new connection by now, which stays.
      if (used !== undefined && !(error instanceof CommandRejected)) {
        if (this.#connection === used) this.#connection = undefined;
        this.#discard(used);
      }
      throw error;
    }
  }

  #discard(connection: Connection): void {
    const closed = connection.close().finally(() => this.#closing.delete(closed));
    this.#closing.add(closed);
  }

  /** Returns the open connection, or opens one. Concurrent requests share one attempt. */
  #open(): Promise<Connection> {
    if (this.#connection?.isOpen()) return Promise.resolve(this.#connection);
    const now = performance.now();
    if (this.#opening !== undefined && now - this.#opening.since < OPEN_TIMEOUT_MS) {
      return this.#opening.connection;
    }
    const connection = Connection.open(this.#url).then(
      (connection) => {
        if (this.#opening !== opening) {
          this.#discard(connection);
          throw new Error("the connection came too late");
        }
        this.#opening = undefined;
        this.#connection = connection;
        return connection;
      },
      (error) => {
        if (this.#opening === opening) this.#opening = undefined;
        throw error;
      },
    );
    const opening = this.#opening = { connection, since: now };
    return connection;
  }
}

/** The broker is reachable, and did not store the command in a queue. */
class CommandRejected extends HttpError {
  override name = "CommandRejected";
}

/** One connection to RabbitMQ and its channel in confirm mode. */
class Connection {
  readonly #model: ChannelModel;
  readonly #channel: ConfirmChannel;
  /** The ids of commands that the broker returned as unroutable. */
  readonly #returned = new Set<string>();
  /** Rejects the publishes that wait for their confirm. */
  readonly #pending = new Set<(error: Error) => void>();
  #ended = false;

  private constructor(model: ChannelModel, channel: ConfirmChannel) {
    this.#model = model;
    this.#channel = channel;
    const handleEnd = () => this.#end();
    model.on("close", handleEnd);
    channel.on("close", handleEnd);
    // An "error" event without a listener would end the isolate. A "close" event follows each of them.
    model.on("error", handleEnd);
    channel.on("error", handleEnd);
    // The broker returns a message before it confirms it.
    channel.on("return", (message) => this.#returned.add(String(message.properties.messageId)));
  }

  static async open(url: string): Promise<Connection> {
    const model = await amqp.connect(url, {
      noDelay: true,
      // Callers give up earlier; this timeout frees the socket.
      timeout: 5000,
      clientProperties: { connection_name: "edge function bridge" },
    });
    model.on("error", () => {});
    return new Connection(model, await model.createConfirmChannel());
  }

  isOpen(): boolean {
    return !this.#ended;
  }

  publish(command: Command): Promise<void> {
    return new Promise((resolve, reject) => {
      if (this.#ended) throw new Error("the connection has ended");
      this.#pending.add(reject);
      const handleConfirm = (error: unknown) => {
        this.#pending.delete(reject);
        const wasReturned = this.#returned.delete(command.id);
        if (this.#ended) {
          reject(new Error("the connection ended before the confirm"));
        } else if (error) {
          reject(new CommandRejected(503, "the command queue is full", { "retry-after": "10" }));
        } else if (wasReturned) {
          reject(new CommandRejected(503, "no worker has set up the command queue yet"));
        } else {
          resolve();
        }
      };
      this.#channel.publish(EXCHANGE, command.command, Buffer.from(commandJson(command)), {
        persistent: true,
        mandatory: true,
        contentType: "application/json",
        messageId: command.id,
      }, handleConfirm);
    });
  }

  /** Closes the connection in order, or destroys its socket if that takes too long. */
  close(): Promise<void> {
    this.#end();
    // These fields are not in the library's types. The library does not release them by itself if the server
    // never answers the close.
    const { stream, heartbeater } = this.#model.connection as unknown as {
      stream?: { destroy(): void };
      heartbeater?: { clear(): void };
    };
    return new Promise((resolve) => {
      const timer = setTimeout(() => {
        heartbeater?.clear();
        stream?.destroy();
        resolve();
      }, CLOSE_TIMEOUT_MS);
      this.#model.close().catch(() => {}).then(() => {
        clearTimeout(timer);
        resolve();
      });
    });
  }

  #end(): void {
    this.#ended = true;
    for (const reject of this.#pending) reject(new Error("the connection has ended"));
    this.#pending.clear();
  }
}
