//! RabbitMQ: reachable, with the permissions that a worker needs.

use super::report::CheckResult;
use crate::amqp::AmqpSettings;
use crate::amqp::probe::{BrokerProbe, diagnose};

pub(super) async fn checks(settings: &AmqpSettings) -> Vec<CheckResult> {
    let probe = match BrokerProbe::connect(settings).await {
        Ok(probe) => probe,
        Err(error) => {
            return vec![
                CheckResult::failed("RabbitMQ", diagnose(&error, settings)),
                CheckResult::skipped("queues", "RabbitMQ cannot be asked"),
            ];
        }
    };
    let queues = match probe.check_rights().await {
        Ok(()) => CheckResult::passed("queues", "declared; publishing and reading are allowed"),
        Err(error) => CheckResult::failed("queues", diagnose(&error, settings)),
    };
    let endpoint = probe.endpoint().to_owned();
    probe.close().await;
    vec![CheckResult::passed("RabbitMQ", endpoint), queues]
}
