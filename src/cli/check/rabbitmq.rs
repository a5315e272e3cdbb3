//! RabbitMQ: reachable, and it lets us do what workers do.

use super::Line;
use crate::amqp::AmqpSettings;
use crate::amqp::probe::{Probe, diagnose};

pub(super) async fn lines(settings: &AmqpSettings) -> Vec<Line> {
    let probe = match Probe::connect(settings).await {
        Ok(probe) => probe,
        Err(error) => {
            return vec![
                Line::bad("RabbitMQ", diagnose(&error, settings)),
                Line::skipped("queues", "RabbitMQ cannot be asked"),
            ];
        }
    };
    let queues = match probe.rights().await {
        Ok(()) => Line::good("queues", "declared; publishing and reading are allowed"),
        Err(error) => Line::bad("queues", diagnose(&error, settings)),
    };
    let place = probe.place().to_owned();
    probe.close().await;
    vec![Line::good("RabbitMQ", place), queues]
}
