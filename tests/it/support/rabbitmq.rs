//! A vhost for one test, on the broker of `AMQP_URL`, with a user of its own. Both are deleted with
//! the value that stands for them.
//!
//! What is tested connects as the vhost's user, the helpers as the administrator: so
//! [`TestVhost::close_all_connections`] hits the former only, and no other test.

use lapin::options::{
    BasicGetOptions, BasicPublishOptions, ConfirmSelectOptions, QueueDeclareOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Confirmation, Connection, ConnectionProperties};
use reqwest::{Method, StatusCode};
use serde_json::json;
use url::Url;
use uuid::Uuid;

use super::{finish, report_leftover, services};

/// An empty vhost that is one test's own.
pub(crate) struct TestVhost {
    url: Url,
    connection: Connection,
    channel: Channel,
    vhost: Vhost,
}

/// A message taken off a queue.
#[derive(Debug)]
pub(crate) struct Message {
    pub(crate) body: Vec<u8>,
    pub(crate) properties: BasicProperties,
    /// Where it was published last: for a dead letter, the dead-letter exchange.
    pub(crate) exchange: String,
    pub(crate) routing_key: String,
    pub(crate) redelivered: bool,
}

impl Message {
    /// A header's text; of a header that is no text, how Rust prints it.
    pub(crate) fn header(&self, name: &str) -> Option<String> {
        let value = self.properties.headers().as_ref()?.inner().get(name)?;
        Some(if let AMQPValue::LongString(text) = value {
            text.to_string()
        } else {
            format!("{value:?}")
        })
    }
}

impl TestVhost {
    /// Makes an empty vhost with a random name.
    pub(crate) async fn create() -> Self {
        let server = services::amqp_url();
        let vhost = Vhost {
            management: services::management_url(),
            name: format!("it-{}", Uuid::new_v4().simple()),
        };
        let password = Uuid::new_v4().simple().to_string();
        let everything = json!({ "configure": ".*", "write": ".*", "read": ".*" });
        for (path, body) in [
            (format!("vhosts/{}", vhost.name), json!({})),
            (
                format!("users/{}", vhost.name),
                json!({ "password": password, "tags": "" }),
            ),
            (
                format!("permissions/{0}/{0}", vhost.name),
                everything.clone(),
            ),
            (
                format!("permissions/{}/{}", vhost.name, user_of(&server)),
                everything,
            ),
        ] {
            vhost.expect(Method::PUT, &path, Some(body)).await;
        }

        let mut own = server;
        own.set_path(&vhost.name);
        let connection = Connection::connect(own.as_str(), ConnectionProperties::default())
            .await
            .unwrap_or_else(|err| panic!("can't connect to the new vhost: {err}"));
        let channel = connection
            .create_channel()
            .await
            .expect("a new connection takes a channel");
        channel
            .confirm_select(ConfirmSelectOptions::default())
            .await
            .expect("RabbitMQ has confirms");

        own.set_username(&vhost.name)
            .and_then(|()| own.set_password(Some(&password)))
            .expect("an AMQP URL takes a user");
        Self {
            url: own,
            connection,
            channel,
            vhost,
        }
    }

    /// The URL to hand to what is tested.
    pub(crate) fn url(&self) -> &str {
        self.url.as_str()
    }

    /// Its name on the broker, which is its user's name too.
    pub(crate) fn name(&self) -> &str {
        &self.vhost.name
    }

    /// A channel in confirm mode, for what the helpers do not offer.
    pub(crate) fn channel(&self) -> &Channel {
        &self.channel
    }

    /// Publishes a message as it is, and comes back once the broker has it in a queue.
    pub(crate) async fn publish(
        &self,
        exchange: &str,
        routing_key: &str,
        body: &[u8],
        properties: BasicProperties,
    ) {
        let options = BasicPublishOptions {
            mandatory: true,
            ..BasicPublishOptions::default()
        };
        let confirmation = self
            .channel
            .basic_publish(
                exchange.into(),
                routing_key.into(),
                options,
                body,
                properties,
            )
            .await
            .expect("the message can be sent")
            .await
            .expect("the broker answers");
        assert_eq!(
            confirmation,
            Confirmation::Ack(None),
            "a message to exchange {exchange:?} with key {routing_key:?} reaches a queue"
        );
    }

    /// The messages of a queue that wait for a consumer; one that a consumer has and did not
    /// acknowledge does not count. `None` as long as there is no such queue.
    pub(crate) async fn queue_depth(&self, queue: &str) -> Option<u32> {
        // The broker closes the channel on which a missing queue is asked for.
        let channel = self
            .connection
            .create_channel()
            .await
            .expect("the connection is open");
        let options = QueueDeclareOptions {
            passive: true,
            ..QueueDeclareOptions::default()
        };
        match channel
            .queue_declare(queue.into(), options, FieldTable::default())
            .await
        {
            Ok(declared) => {
                let depth = declared.message_count();
                channel
                    .close(200, "done".into())
                    .await
                    .expect("an idle channel closes");
                Some(depth)
            }
            Err(err) if err.is_amqp_soft_error() => None,
            Err(err) => panic!("can't inspect queue {queue}: {err}"),
        }
    }

    /// Takes every waiting message off a queue, oldest first.
    pub(crate) async fn get_all(&self, queue: &str) -> Vec<Message> {
        let mut messages = Vec::new();
        while let Some(message) = self
            .channel
            .basic_get(queue.into(), BasicGetOptions { no_ack: true })
            .await
            .unwrap_or_else(|err| panic!("can't read queue {queue}: {err}"))
        {
            let delivery = message.delivery;
            messages.push(Message {
                body: delivery.data,
                properties: delivery.properties,
                exchange: delivery.exchange.to_string(),
                routing_key: delivery.routing_key.to_string(),
                redelivered: delivery.redelivered,
            });
        }
        messages
    }

    /// Lets the vhost's user do this alone, as patterns of names.
    pub(crate) async fn permit(&self, configure: &str, write: &str, read: &str) {
        let path = format!("permissions/{0}/{0}", self.vhost.name);
        let rights = json!({ "configure": configure, "write": write, "read": read });
        self.vhost.expect(Method::PUT, &path, Some(rights)).await;
    }

    /// Cuts every connection of the vhost's user, as a broker that restarts would.
    pub(crate) async fn close_all_connections(&self) {
        let path = format!("connections/username/{}", self.vhost.name);
        self.vhost.expect(Method::DELETE, &path, None).await;
    }
}

/// The user that a URL names.
fn user_of(url: &Url) -> &str {
    if url.username().is_empty() {
        "guest"
    } else {
        url.username()
    }
}

/// The vhost on the broker and its user of the same name; both exist as long as this value.
struct Vhost {
    management: Url,
    name: String,
}

impl Vhost {
    async fn expect(&self, method: Method, path: &str, body: Option<serde_json::Value>) {
        request(&self.management, method, path, body)
            .await
            .unwrap_or_else(|err| panic!("{err}"));
    }
}

impl Drop for Vhost {
    fn drop(&mut self) {
        let management = self.management.clone();
        let paths = [
            format!("vhosts/{}", self.name),
            format!("users/{}", self.name),
        ];
        let deleted = finish(async move {
            for path in paths {
                request(&management, Method::DELETE, &path, None).await?;
            }
            Ok(())
        });
        report_leftover(&format!("vhost {}", self.name), deleted);
    }
}

/// Asks the management API. To delete what is not there is fine.
async fn request(
    management: &Url,
    method: Method,
    path: &str,
    body: Option<serde_json::Value>,
) -> Result<(), String> {
    let url = management
        .join(&format!("/api/{path}"))
        .map_err(|err| err.to_string())?;
    let deletes = method == Method::DELETE;
    let mut request = reqwest::Client::new().request(method.clone(), url);
    if let Some(body) = body {
        request = request.json(&body);
    }
    let answer = request.send().await.map_err(|err| {
        let err = err.without_url();
        format!("no answer from the management API to {method} {path}: {err}")
    })?;
    let status = answer.status();
    if status.is_success() || (deletes && status == StatusCode::NOT_FOUND) {
        return Ok(());
    }
    let text = answer.text().await.unwrap_or_default();
    Err(format!(
        "the management API answered {status} to {method} {path}: {text}"
    ))
}
