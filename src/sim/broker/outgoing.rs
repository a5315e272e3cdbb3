//! Sends replies to requests, messages to one connection, and events to every connection of an account.
//!
//! Faults of outgoing messages (lost, late, doubled, reordered) act here.

use std::time::Duration;

use bytes::Bytes;
use prost::Message;
use rand::RngExt;

use crate::ctrader::wire::{self, ProtoOaPayloadType as PayloadType};
use crate::sim::state::broker::Broker;
use crate::sim::state::connection::{ConnId, Output};
use crate::sim::state::envelope::{self, FrameOptions};
use crate::sim::state::payload::{UNKNOWN, number};
use crate::sim::state::request::Request;
use crate::sim::state::timer::TimerAction;

impl Broker {
    /// Returns the next thing for the shell to do.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.out.pop_front()
    }

    pub(crate) fn frame_options(&self) -> FrameOptions {
        FrameOptions {
            omit_inner: self.faults.omit_inner,
            unknown_fields: self.faults.unknown_fields,
        }
    }

    /// Sends a frame as it is.
    pub(crate) fn send(&mut self, conn: ConnId, frame: Bytes) {
        let now = self.now;
        let Some(socket) = self.conns.get_mut(&conn) else {
            return;
        };
        if socket.frozen {
            return;
        }
        socket.last_out = now;
        self.stats.sent += 1;
        if self
            .faults
            .unknown_types_every
            .is_some_and(|every| self.stats.sent.is_multiple_of(every.max(1)))
        {
            let stranger = envelope::frame(
                UNKNOWN,
                None,
                &wire::ProtoOaVersionRes::default(),
                FrameOptions::default(),
            );
            self.out.push_back(Output::Send(conn, stranger));
        }
        self.out.push_back(Output::Send(conn, frame));
    }

    /// Sends a message without a clientMsgId to one connection.
    pub(crate) fn push_to(&mut self, conn: ConnId, kind: PayloadType, body: &impl Message) {
        let frame = envelope::frame(number(kind), None, body, self.frame_options());
        self.send(conn, frame);
    }

    /// Replies to a request.
    pub(super) fn reply(&mut self, request: &Request, kind: PayloadType, body: &impl Message) {
        let frame = envelope::frame(
            number(kind),
            request.id.as_deref(),
            body,
            self.frame_options(),
        );
        self.reply_frame(request, frame);
    }

    pub(super) fn reply_frame(&mut self, request: &Request, frame: Bytes) {
        if self.faults.swallows(request.payload_type) {
            return;
        }
        let delay = self.faults.lateness(request.payload_type);
        if self.faults.hold > 0 {
            self.faults.hold -= 1;
            self.faults.held.push((request.conn, frame));
            if self.faults.hold == 0 {
                for (conn, frame) in std::mem::take(&mut self.faults.held).into_iter().rev() {
                    self.send(conn, frame);
                }
            }
        } else if delay > Duration::ZERO {
            self.schedule(delay, TimerAction::Send(request.conn, frame));
        } else {
            self.send(request.conn, frame);
        }
    }

    /// Sends an event of an account to every connection on which it is authorised.
    pub(crate) fn publish(
        &mut self,
        account: i64,
        kind: PayloadType,
        id: Option<&str>,
        body: &impl Message,
    ) {
        self.record_snapshot(account);
        if self.faults.drop_events > 0 {
            self.faults.drop_events -= 1;
            return;
        }
        let twice = self.faults.duplicate_events > 0;
        if twice {
            self.faults.duplicate_events -= 1;
        }
        let frame = envelope::frame(number(kind), id, body, self.frame_options());
        for conn in self.connections_of(account) {
            if kind == PayloadType::ProtoOaExecutionEvent {
                self.stats.executions += 1;
            }
            self.send(conn, frame.clone());
            if twice {
                self.send(conn, frame.clone());
            }
        }
    }

    /// Returns the clientMsgId of an event that no client here caused: none, or that of another client.
    pub(crate) fn manual_msg_id(&mut self) -> Option<String> {
        self.faults
            .foreign_ids
            .then(|| format!("terminal-{:016x}", self.rng.random::<u64>()))
    }
}
