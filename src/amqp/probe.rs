//! Asks a broker whether workers could use it, and says in an operator's words why not.
//!
//! It declares what a worker declares at start, which changes nothing where that is there, and
//! publishes one message that reaches no queue.

use lapin::options::{BasicGetOptions, BasicNackOptions, BasicPublishOptions, QueueDeclareOptions};
use lapin::types::FieldTable;
use lapin::uri::AMQPUri;
use lapin::{BasicProperties, ErrorKind};

use super::link::{Link, answer, parse_uri};
use super::topology::{self, COMMANDS_EXCHANGE, COMMANDS_QUEUE};
use super::{AmqpError, AmqpSettings};
use crate::failure::network::NetworkFault;
use crate::failure::{Diagnosis, with_causes};

/// A routing key that nothing is bound with: the broker checks the right to publish, and drops it.
const NOBODYS_KEY: &str = "check";

/// A connection to ask with.
pub struct Probe {
    link: Link,
    place: String,
}

impl Probe {
    /// Connects.
    ///
    /// # Errors
    /// When that fails; see [`diagnose`].
    pub async fn connect(settings: &AmqpSettings) -> Result<Self, AmqpError> {
        Ok(Self {
            link: Link::open(settings).await?,
            place: place(settings),
        })
    }

    /// Host, port and vhost.
    #[must_use]
    pub fn place(&self) -> &str {
        &self.place
    }

    /// Declares, publishes and reads as a worker does.
    ///
    /// # Errors
    /// When the broker does not let us; see [`diagnose`].
    pub async fn rights(&self) -> Result<(), AmqpError> {
        let channel = self.link.confirming_channel().await?;
        topology::declare(&channel).await?;
        let publish = async {
            channel
                .basic_publish(
                    COMMANDS_EXCHANGE.into(),
                    NOBODYS_KEY.into(),
                    BasicPublishOptions::default(),
                    &[],
                    BasicProperties::default(),
                )
                .await?
                .await
        };
        answer("confirm a message", publish).await?;
        // A command that waits is not touched: each return of one counts against it.
        let options = QueueDeclareOptions {
            passive: true,
            ..QueueDeclareOptions::default()
        };
        let look = channel.queue_declare(COMMANDS_QUEUE.into(), options, FieldTable::default());
        if answer("look at a queue", look).await?.message_count() == 0 {
            let get = channel.basic_get(COMMANDS_QUEUE.into(), BasicGetOptions { no_ack: false });
            if let Some(message) = answer("give a message", get).await? {
                let requeue = BasicNackOptions {
                    requeue: true,
                    ..BasicNackOptions::default()
                };
                answer("take a message back", message.delivery.nack(requeue)).await?;
            }
        }
        Ok(())
    }

    /// Says farewell.
    pub async fn close(self) {
        // Whether it is heard changes nothing.
        let _ = self.link.close().await;
    }
}

/// Host, port and vhost, which are no secret.
fn place(settings: &AmqpSettings) -> String {
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
    let place = place(settings);
    match error {
        AmqpError::Topology { what, name, .. } => Diagnosis::new(
            format!("{place} has the {what} {name} with other arguments than ours"),
            format!("once it is empty, delete the {what} {name}; the next worker makes it anew"),
        ),
        AmqpError::Timeout { .. } => NetworkFault::Silent.diagnosis(&place, "AMQP_URL", ""),
        AmqpError::Client(error) => of_client(error, &place),
        AmqpError::Unroutable { .. }
        | AmqpError::Refused { .. }
        | AmqpError::Url
        | AmqpError::Cancelled
        | AmqpError::Closed
        | AmqpError::Panicked => unknown(error),
    }
}

fn of_client(error: &lapin::Error, place: &str) -> Diagnosis {
    if let ErrorKind::ProtocolError(answer) = error.kind() {
        let said = answer.get_message().to_string();
        return match answer.get_id() {
            ACCESS_REFUSED if said.contains("access to") => Diagnosis::new(
                format!("{place} says: {said}"),
                r#"grant it: `rabbitmqctl set_permissions -p VHOST USER "^bridge\." "^bridge\." "^bridge\."`"#,
            ),
            ACCESS_REFUSED => Diagnosis::new(
                format!("{place} refuses user or password (ACCESS_REFUSED)"),
                "correct user and password in AMQP_URL (in a URL @ is %40, : is %3A, / is %2F)",
            ),
            NOT_ALLOWED => Diagnosis::new(
                format!("{place} does not let this user into the vhost, or has none of that name"),
                "correct the vhost at the end of AMQP_URL (the default one is %2f), or make it and grant it",
            ),
            _ => Diagnosis::new(format!("{place} says: {said}"), "see the broker's own log"),
        };
    }
    let trust = "use a broker with a certificate of a public authority";
    if let Some(fault) = NetworkFault::of(error) {
        return fault.diagnosis(place, "AMQP_URL", trust);
    }
    if matches!(
        error.kind(),
        ErrorKind::ParsingError(_) | ErrorKind::InvalidProtocolVersion(_)
    ) {
        return Diagnosis::new(
            format!("what listens at {place} does not speak AMQP 0-9-1"),
            "correct host and port in AMQP_URL (5672, or 5671 with amqps)",
        );
    }
    unknown(error)
}

fn unknown(error: &(dyn std::error::Error + 'static)) -> Diagnosis {
    Diagnosis::new(with_causes(error), "see the broker's own log")
}
