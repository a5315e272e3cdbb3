use time::OffsetDateTime;

use super::*;
use crate::domain::decimal::Decimal;
use crate::domain::ids::{AccountId, UserId};
use crate::domain::row::{AccountRow, SessionState};
use crate::domain::status::Status;

fn fence(epoch: i64) -> Fence {
    let key = SessionKey {
        user: UserId::new("u").expect("valid"),
        account: AccountId(1),
    };
    Fence::new(&key, epoch)
}

fn state(status: Status) -> SessionState {
    SessionState {
        status,
        last_error: None,
        attempts: 0,
        is_demo: Some(true),
    }
}

fn figures(balance: i128) -> Box<AccountRow> {
    Box::new(AccountRow {
        trader_login: None,
        currency: None,
        balance: Decimal::new(balance, 2),
        equity: None,
        unrealized_gross: None,
        unrealized_net: None,
        used_margin: Decimal::new(0, 2),
        free_margin: None,
        bonus: None,
        margin_level: None,
        positions: Vec::new(),
        orders: Vec::new(),
        balance_version: None,
        event_at: OffsetDateTime::UNIX_EPOCH,
    })
}

fn full(balance: i128) -> RowContent {
    RowContent::Full {
        state: state(Status::Live),
        connected: true,
        account: figures(balance),
    }
}

fn only(outbox: &Outbox) -> RowWrite {
    let mut rows = outbox.take().rows;
    assert_eq!(rows.len(), 1);
    rows.remove(0)
}

#[test]
fn the_latest_figures_win_and_a_heartbeat_does_not_hide_them() {
    let outbox = Outbox::default();
    outbox.put(&fence(1), full(1));
    outbox.put(&fence(1), full(2));
    outbox.put(&fence(1), RowContent::Heartbeat);
    let row = only(&outbox);
    assert_eq!((row.seq, row.content), (3, full(2)));
}

#[test]
fn figures_that_were_not_written_survive_a_disconnection() {
    let outbox = Outbox::default();
    outbox.put(&fence(1), full(7));
    outbox.put(&fence(1), RowContent::State(state(Status::Reconnecting)));
    let expected = RowContent::Full {
        state: state(Status::Reconnecting),
        connected: false,
        account: figures(7),
    };
    assert_eq!(only(&outbox).content, expected);
}

/// A state without an environment comes from a session that no link runs. The table would default it to demo.
#[test]
fn a_state_without_an_environment_leaves_it_as_it_was() {
    let on_live = state(Status::Live).in_environment(false);
    let befores = [
        RowContent::State(on_live.clone()),
        RowContent::Full {
            state: on_live,
            connected: true,
            account: figures(7),
        },
    ];
    for before in befores {
        let outbox = Outbox::default();
        outbox.put(&fence(1), before);
        outbox.put(
            &fence(1),
            RowContent::State(SessionState::of(Status::Stopped)),
        );
        let stopped = SessionState::of(Status::Stopped).in_environment(false);
        match only(&outbox).content {
            RowContent::Full { state, .. } | RowContent::State(state) => assert_eq!(state, stopped),
            RowContent::Heartbeat => panic!("a state"),
        }
    }
}

#[test]
fn what_is_put_back_gives_way_to_what_came_since() {
    let outbox = Outbox::default();
    outbox.put(&fence(1), full(1));
    let taken = outbox.take();
    outbox.put(&fence(1), full(2));
    outbox.put_back(taken);
    let row = only(&outbox);
    assert_eq!((row.seq, row.content), (2, full(2)));
}

#[test]
fn another_epoch_owes_the_older_one_nothing() {
    let outbox = Outbox::default();
    outbox.put(&fence(1), full(1));
    outbox.put(&fence(2), RowContent::State(state(Status::Connecting)));
    let row = only(&outbox);
    assert_eq!(
        (row.fence.epoch, row.content),
        (2, RowContent::State(state(Status::Connecting)))
    );
}

#[test]
fn a_lower_epoch_never_replaces_a_higher_one() {
    let outbox = Outbox::default();
    outbox.put(&fence(2), full(2));
    outbox.put(&fence(1), RowContent::State(state(Status::Pending)));
    let row = only(&outbox);
    assert_eq!((row.fence.epoch, row.content), (2, full(2)));
}
