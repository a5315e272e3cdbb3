//! The life of a connection: accepted, idle, frozen, closed or lost.

use std::collections::BTreeMap;
use std::time::Instant;

use crate::ctrader::wire;
use crate::sim::state::broker::Broker;
use crate::sim::state::budget::RequestBudget;
use crate::sim::state::connection::{ClientConnection, Close, ConnId, Output};
use crate::sim::state::envelope::frame;
use crate::sim::state::payload::HEARTBEAT_EVENT;
use crate::sim::world::spec::Environment;

impl Broker {
    /// Adds a connection that the shell accepted.
    pub fn connect(&mut self, environment: Environment, now: Instant) -> ConnId {
        self.advance(now);
        self.last_conn += 1;
        self.stats.connections += 1;
        let conn = ClientConnection {
            environment,
            app: None,
            accounts: BTreeMap::new(),
            spots: BTreeMap::new(),
            last_in: now,
            last_out: now,
            budget: RequestBudget::new(&self.settings.limits, now),
            frozen: false,
            requests: 0,
        };
        self.conns.insert(ConnId(self.last_conn), conn);
        ConnId(self.last_conn)
    }

    /// Removes a connection that is gone, with everything that was authorised or subscribed on it.
    pub fn disconnected(&mut self, conn: ConnId) {
        self.remove_connection(conn);
    }

    /// Removes a connection that the shell gave up because its client did not read.
    pub fn slow_reader(&mut self, conn: ConnId) {
        self.stats.slow_readers += 1;
        self.remove_connection(conn);
    }

    fn remove_connection(&mut self, conn: ConnId) {
        if let Some(gone) = self.conns.remove(&conn) {
            for (account, symbol) in gone.spots.keys() {
                self.remove_subscriber(conn, *account, *symbol);
            }
        }
    }

    pub(crate) fn close(&mut self, conn: ConnId, how: Close) {
        if self.conns.contains_key(&conn) {
            self.remove_connection(conn);
            self.out.push_back(Output::Close(conn, how));
        }
    }

    pub(crate) fn freeze(&mut self, conn: ConnId) {
        if let Some(socket) = self.conns.get_mut(&conn) {
            socket.frozen = true;
            self.out.push_back(Output::Freeze(conn));
        }
    }

    /// Closes connections whose client is silent, and sends heartbeats on those that are idle from here.
    pub(super) fn check_liveness(&mut self) {
        let mut beats = Vec::new();
        let mut silent = Vec::new();
        for (id, conn) in &self.conns {
            if self.now.saturating_duration_since(conn.last_in) >= self.settings.idle_timeout {
                silent.push(*id);
            } else if self.now.saturating_duration_since(conn.last_out)
                >= self.settings.heartbeat_after
            {
                beats.push(*id);
            }
        }
        for conn in silent {
            if self.conns.get(&conn).is_some_and(|socket| !socket.frozen) {
                self.stats.idle_timeouts += 1;
                self.close(conn, Close::Normal);
            }
        }
        for conn in beats {
            let beat = wire::ProtoHeartbeatEvent::default();
            let frame = frame(HEARTBEAT_EVENT, None, &beat, self.frame_options());
            self.send(conn, frame);
        }
    }

    /// Returns every open connection.
    pub fn open_connections(&self) -> Vec<ConnId> {
        self.conns.keys().copied().collect()
    }

    /// Returns the connections on which an account is authorised, in the order of their numbers.
    pub(crate) fn connections_of(&self, account: i64) -> Vec<ConnId> {
        self.conns
            .iter()
            .filter(|(_, conn)| conn.accounts.contains_key(&account))
            .map(|(id, _)| *id)
            .collect()
    }
}
