//! The table.

use std::fmt::Write as _;

use crate::bridge::{Idle, Run};
use crate::hot::Hot;
use crate::peer::Peer;
use crate::writer::Writer;

/// Microseconds of processor time an event.
fn micros(run: &Run) -> f64 {
    run.cores * 1e6 / run.events
}

/// KiB of memory a session.
fn kib(total_mib: f64, empty_mib: f64, sessions: u32) -> f64 {
    (total_mib - empty_mib) * 1024.0 / f64::from(sessions)
}

pub(crate) fn render(
    idle: &Idle,
    runs: &[Run],
    unwritten: &Run,
    peer: Option<&Peer>,
    writer: &Writer,
    hot: &Hot,
) -> String {
    let mut out = String::new();
    // Writing to a string cannot fail.
    let _ = lines(&mut out, idle, runs, unwritten, peer, hot);
    let _ = writing(&mut out, writer);
    let _ = reading(&mut out, hot);
    out
}

#[expect(
    clippy::too_many_lines,
    reason = "one line of the table after the other"
)]
fn lines(
    out: &mut String,
    idle: &Idle,
    runs: &[Run],
    unwritten: &Run,
    peer: Option<&Peer>,
    hot: &Hot,
) -> std::fmt::Result {
    let mut row = |name: &str, of: &dyn Fn(&Run) -> String, other: String| {
        write!(out, "| {name} |")?;
        for run in runs {
            write!(out, " {} |", of(run))?;
        }
        writeln!(out, " {other} |")
    };
    let of_peer = |of: &dyn Fn(&Peer) -> String| peer.map_or_else(|| "–".to_owned(), of);
    let none = || "–".to_owned();
    row(
        "sessions, three positions each",
        &|run| run.sessions.to_string(),
        of_peer(&|peer| format!("Node: {}", peer.sessions)),
    )?;
    row("---", &|_| "---:".to_owned(), "---:".to_owned())?;
    row("measured, s", &|run| format!("{:.0}", run.seconds), none())?;
    row(
        "spot events a second",
        &|run| format!("{:.0}", run.events),
        of_peer(&|peer| format!("{:.0}", peer.events)),
    )?;
    row(
        "processor, cores",
        &|run| format!("{:.3}", run.cores),
        of_peer(&|peer| format!("{:.3}", peer.cores)),
    )?;
    row(
        "processor an event, all included, µs",
        &|run| format!("{:.2}", micros(run)),
        of_peer(&|peer| format!("{:.2}", peer.event_micros)),
    )?;
    row(
        "… as a part of the peer's",
        &|run| of_peer(&|peer| format!("{:.3}", micros(run) / peer.event_micros)),
        "1".to_owned(),
    )?;
    row(
        "memory, most, MiB",
        &|run| format!("{:.1}", run.memory_mib),
        of_peer(&|peer| format!("{:.1}", peer.memory_mib)),
    )?;
    row(
        "memory a session, KiB",
        &|run| {
            format!(
                "{:.1}",
                kib(run.memory_mib, run.memory_empty_mib, run.sessions)
            )
        },
        of_peer(&|peer| {
            format!(
                "{:.1}",
                kib(peer.memory_mib, peer.memory_empty_mib, peer.sessions)
            )
        }),
    )?;
    row(
        "… as a part of the peer's",
        &|run| {
            of_peer(&|peer| {
                let own = kib(run.memory_mib, run.memory_empty_mib, run.sessions);
                let theirs = kib(peer.memory_mib, peer.memory_empty_mib, peer.sessions);
                format!("{:.3}", own / theirs)
            })
        },
        "1".to_owned(),
    )?;
    row(
        "oldest connected row, s",
        &|run| format!("{:.2}", run.row_age_max),
        none(),
    )?;
    row(
        "fewest rows connected",
        &|run| run.connected_min.to_string(),
        none(),
    )?;
    row(
        "from an event to its row, mean, s",
        &|run| format!("{:.2}", run.event_to_row),
        none(),
    )?;
    row(
        "rows a second, whole + only fresh",
        &|run| format!("{:.0} + {:.0}", run.rows.0, run.rows.1),
        none(),
    )?;
    row(
        "WAL a row, bytes",
        &|run| format!("{:.0}", run.wal_per_row),
        none(),
    )?;
    row(
        "commands a second",
        &|run| format!("{:.0}", run.commands),
        none(),
    )?;
    row(
        "first command to last live session, s",
        &|run| format!("{:.1}", run.storm.as_secs_f64()),
        none(),
    )?;
    row(
        "reconnects",
        &|run| format!("{:.0}", run.reconnects),
        none(),
    )?;
    row(
        "refusals and slow reads",
        &|run| run.refusals.to_string(),
        none(),
    )?;
    row(
        "deals made / not stored",
        &|run| format!("{} / {}", run.deals.0, run.deals.1),
        none(),
    )?;
    row(
        "slowest answer of `/livez`, ms",
        &|run| format!("{:.1}", run.health_max.as_secs_f64() * 1e3),
        none(),
    )?;
    writeln!(out)?;
    if let Some(full) = runs.iter().find(|run| run.sessions == unwritten.sessions) {
        let reading = micros(unwritten);
        // A row values its account once, however many quotes came since the last one.
        let arithmetic = hot.row / 1e3 * (full.rows.0 / full.events);
        writeln!(
            out,
            "At {} sessions: {:.2} µs an event are reading, {:.2} µs arithmetic, {:.2} µs writing.",
            full.sessions,
            reading,
            arithmetic,
            micros(full) - reading - arithmetic,
        )?;
    }
    if let Some(peer) = peer {
        writeln!(
            out,
            "The peer: {:.2} µs reading, {:.2} µs arithmetic, {:.2} µs writing.",
            peer.without_arithmetic,
            peer.without_rows - peer.without_arithmetic,
            peer.event_micros - peer.without_rows,
        )?;
    }
    writeln!(
        out,
        "Without sessions: {:.2} % of a core, {:.1} MiB; from process start to ready {:.0} ms.",
        idle.cores * 100.0,
        idle.memory_mib,
        idle.cold_start.as_secs_f64() * 1e3,
    )
}

fn writing(out: &mut String, writer: &Writer) -> std::fmt::Result {
    writeln!(
        out,
        "The writer: {:.0} rows a second, a bare loop of the same statement {:.0} (ratio {:.2}); WAL {:.0} bytes a \
         changed row, {:.0} a fresh one (ratio {:.2}, wal_level {}).",
        writer.ours,
        writer.bare,
        writer.ours / writer.bare,
        writer.wal_changed,
        writer.wal_fresh,
        writer.wal_fresh / writer.wal_changed,
        writer.wal_level,
    )
}

fn reading(out: &mut String, hot: &Hot) -> std::fmt::Result {
    writeln!(
        out,
        "A spot by itself: prost's decode {:.0} ns; a row of three positions {:.0} ns.",
        hot.decode, hot.row
    )?;
    writeln!(out)?;
    writeln!(
        out,
        "| a spot decoded and applied to an account | ns | as a part of prost's decode |"
    )?;
    writeln!(out, "| --- | ---: | ---: |")?;
    for (positions, each) in &hot.applied {
        let ratio = each / hot.decode;
        writeln!(out, "| positions: {positions} | {each:.0} | {ratio:.2} |")?;
    }
    writeln!(out)?;
    writeln!(
        out,
        "| socket to account, processor time a spot | spots at once | µs | the libraries alone, µs | ratio |"
    )?;
    writeln!(out, "| --- | ---: | ---: | ---: | ---: |")?;
    for socket in &hot.sockets {
        writeln!(
            out,
            "| loopback{} | {} | {:.2} | {:.2} | {:.2} |",
            if socket.tls { " with TLS" } else { "" },
            socket.batch,
            socket.ours,
            socket.bare,
            socket.ours / socket.bare,
        )?;
    }
    Ok(())
}
