//! Checks whether workers could use a broker, and tells an operator why not.
//!
//! It declares what a worker declares at start, which changes nothing where a worker has run, and
//! publishes one message that reaches no queue.

use lapin::options::{BasicGetOptions, BasicNackOptions, BasicPublishOptions, QueueDeclareOptions};
use lapin::types::FieldTable;
use lapin::uri::AMQPUri;
use lapin::{BasicProperties, ErrorKind};

use super::connection::{AmqpSettings, BrokerConnection, parse_uri};
use super::error::AmqpError;
use super::timeout::reply;
use super::topology::{self, COMMANDS_EXCHANGE, COMMANDS_QUEUE};
use crate::failure::network::NetworkFault;
use crate::failure::{Diagnosis, with_causes};

/// A routing key without a binding: the broker checks the right to publish, and drops the message.
const UNBOUND_KEY: &str = "check";

/// A connection to a broker that is being checked.
pub struct BrokerProbe {
    connection: BrokerConnection,
    endpoint: String,
}

impl BrokerProbe {
    /// Connects.
    ///
    /// # Errors
    /// When that fails; see [`diagnose`].
    pub async fn connect(settings: &AmqpSettings) -> Result<Self, AmqpError> {
        Ok(Self {
            connection: BrokerConnection::open(settings).await?,
            endpoint: endpoint(settings),
        })
    }

    /// Host, port and vhost.
    #[must_use]
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// Declares, publishes and reads as a worker does.
    ///
    /// # Errors
    /// When the broker refuses one of them; see [`diagnose`].
    pub async fn check_rights(&self) -> Result<(), AmqpError> {
        let channel = self.connection.confirming_channel().await?;
        topology::declare(&channel).await?;
        let publish = async {
            channel
                .basic_publish(
                    COMMANDS_EXCHANGE.into(),
                    UNBOUND_KEY.into(),
                    BasicPublishOptions::default(),
                    &[],
                    BasicProperties::default(),
                )
                .await?
                .await
        };
        reply("confirm a message", publish).await?;
        // Only an empty queue is read: each return of a command counts towards its delivery limit.
        let options = QueueDeclareOptions {
            passive: true,
            ..QueueDeclareOptions::default()
        };
        let declare = channel.queue_declare(COMMANDS_QUEUE.into(), options, FieldTable::default());
        if reply("report a queue", declare).await?.message_count() == 0 {
            let get = channel.basic_get(COMMANDS_QUEUE.into(), BasicGetOptions { no_ack: false });
            if let Some(message) = reply("deliver a message", get).await? {
                let requeue = BasicNackOptions {
                    requeue: true,
                    ..BasicNackOptions::default()
                };
                reply("take a message back", message.delivery.nack(requeue)).await?;
            }
        }
        Ok(())
    }

    /// Closes the connection.
    pub async fn close(self) {
        // The check is over; a failure to close changes nothing.
        let _ = self.connection.close().await;
    }
}

/// Host, port and vhost, which are no secret.
fn endpoint(settings: &AmqpSettings) -> String {
    parse_uri(settings.url.expose()).map_or_else(
        |_| "the broker".to_owned(),
        |AMQPUri {
             authority, vhost, ..
         }| format!("{}:{} (vhost {vhost})", authority.host, authority.port),
    )
}

/// `ACCESS_REFUSED` and `NOT_ALLOWED` of AMQP.
const ACCESS_REFUSED: u16 = 403;
const NOT_ALLOWED: u16 = 530;

/// Why a broker cannot be used, and what to do about it.
#[must_use]
pub fn diagnose(error: &AmqpError, settings: &AmqpSettings) -> Diagnosis {
    let endpoint = endpoint(settings);
    match error {
        AmqpError::Topology { what, name, .. } => Diagnosis::new(
            format!("{endpoint} has the {what} {name} with other arguments than ours"),
            format!("once it is empty, delete the {what} {name}; the next worker makes it anew"),
        ),
        AmqpError::Timeout { .. } => NetworkFault::Silent.diagnosis(&endpoint, "AMQP_URL", ""),
        AmqpError::Client(error) => diagnose_client_error(error, &endpoint),
        AmqpError::Unroutable { .. }
        | AmqpError::Refused { .. }
        | AmqpError::Url
        | AmqpError::Cancelled
        | AmqpError::Closed
        | AmqpError::Panicked => undiagnosed(error),
    }
}

fn diagnose_client_error(error: &lapin::Error, endpoint: &str) -> Diagnosis {
    if let ErrorKind::ProtocolError(reply) = error.kind() {
        let message = reply.get_message().to_string();
        return match reply.get_id() {
            ACCESS_REFUSED if message.contains("access to") => Diagnosis::new(
                format!("{endpoint} says: {message}"),
                r#"grant it: `rabbitmqctl set_permissions -p VHOST USER "^bridge\." "^bridge\." "^bridge\."`"#,
            ),
            ACCESS_REFUSED => Diagnosis::new(
                format!("{endpoint} refuses user or password (ACCESS_REFUSED)"),
                "correct user and password in AMQP_URL (in a URL @ is %40, : is %3A, / is %2F)",
            ),
            NOT_ALLOWED => Diagnosis::new(
                format!(
                    "{endpoint} does not let this user into the vhost, or has none of that name"
                ),
                "correct the vhost at the end of AMQP_URL (the default one is %2f), or make it and grant it",
            ),
            _ => Diagnosis::new(
                format!("{endpoint} says: {message}"),
                "see the broker's own log",
            ),
        };
    }
    let trust = "use a broker with a certificate of a public authority";
    if let Some(fault) = NetworkFault::of(error) {
        return fault.diagnosis(endpoint, "AMQP_URL", trust);
    }
    if matches!(
        error.kind(),
        ErrorKind::ParsingError(_) | ErrorKind::InvalidProtocolVersion(_)
    ) {
        return Diagnosis::new(
            format!("what listens at {endpoint} does not speak AMQP 0-9-1"),
            "correct host and port in AMQP_URL (5672, or 5671 with amqps)",
        );
    }
    undiagnosed(error)
}

fn undiagnosed(error: &(dyn std::error::Error + 'static)) -> Diagnosis {
    Diagnosis::new(with_causes(error), "see the broker's own log")
}
