//! RabbitMQ: reachable, with the permissions that a worker needs.

use super::report::Check;
use crate::amqp::AmqpSettings;
use crate::amqp::probe::{BrokerProbe, diagnose};

pub(super) async fn checks(settings: &AmqpSettings) -> Vec<Check> {
    let probe = match BrokerProbe::connect(settings).await {
        Ok(probe) => probe,
        Err(error) => {
            return vec![
                Check::failed("RabbitMQ", diagnose(&error, settings)),
                Check::skipped("queues", "RabbitMQ cannot be asked"),
            ];
        }
    };
    let queues = match probe.check_rights().await {
        Ok(()) => Check::passed("queues", "declared; publishing and reading are allowed"),
        Err(error) => Check::failed("queues", diagnose(&error, settings)),
    };
    let endpoint = probe.endpoint().to_owned();
    probe.close().await;
    vec![Check::passed("RabbitMQ", endpoint), queues]
}
