//! RabbitMQ: reachable, and it lets us do what workers do.

use super::Line;
use crate::amqp::AmqpSettings;
use crate::amqp::probe::{BrokerProbe, diagnose};

pub(super) async fn lines(settings: &AmqpSettings) -> Vec<Line> {
    let probe = match BrokerProbe::connect(settings).await {
        Ok(probe) => probe,
        Err(error) => {
            return vec![
                Line::bad("RabbitMQ", diagnose(&error, settings)),
                Line::skipped("queues", "RabbitMQ cannot be asked"),
            ];
        }
    };
    let queues = match probe.check_rights().await {
        Ok(()) => Line::good("queues", "declared; publishing and reading are allowed"),
        Err(error) => Line::bad("queues", diagnose(&error, settings)),
    };
    let endpoint = probe.endpoint().to_owned();
    probe.close().await;
    vec![Line::good("RabbitMQ", endpoint), queues]
}
