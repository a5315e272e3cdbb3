//! The headers and properties of messages: those that the bridge adds, those that the broker adds, and those that a copy
//! of a message keeps.

use lapin::BasicProperties;
use lapin::message::Delivery;
use lapin::types::{AMQPValue, FieldTable};

/// Why a message is in the dead-letter queue.
pub(super) const REASON_HEADER: &str = "x-bridge-reason";
/// The exchange that the message was first published to.
pub(super) const EXCHANGE_HEADER: &str = "x-bridge-original-exchange";
/// The routing key that the message was first published with.
pub(super) const ROUTING_KEY_HEADER: &str = "x-bridge-original-routing-key";
/// The user who published the message first, if the publisher set that property. A copy cannot keep the property: the
/// broker compares it with the user of the connection, which is another one.
pub(super) const USER_ID_HEADER: &str = "x-bridge-original-user-id";

/// How often a quorum queue has delivered the message before.
const DELIVERY_COUNT_HEADER: &str = "x-delivery-count";

/// What RabbitMQ adds when it dead-letters a message by itself.
const DEATH_HEADER: &str = "x-death";
const FIRST_DEATH_PREFIX: &str = "x-first-death-";
const LAST_DEATH_PREFIX: &str = "x-last-death-";

/// The longest text that is written into a header, in characters.
const HEADER_CHARS_MAX: usize = 255;

/// AMQP's number of the persistent delivery mode.
pub(super) const PERSISTENT: u8 = 2;

/// How often the broker has delivered this message before.
pub(super) fn delivery_count(delivery: &Delivery) -> i64 {
    let headers = delivery.properties.headers().as_ref();
    let count = headers.and_then(|headers| headers.inner().get(DELIVERY_COUNT_HEADER));
    match count {
        Some(AMQPValue::LongLongInt(count)) => *count,
        Some(AMQPValue::LongInt(count)) => i64::from(*count),
        Some(AMQPValue::LongUInt(count)) => i64::from(*count),
        Some(AMQPValue::ShortInt(count)) => i64::from(*count),
        Some(AMQPValue::ShortUInt(count)) => i64::from(*count),
        Some(AMQPValue::ShortShortInt(count)) => i64::from(*count),
        Some(AMQPValue::ShortShortUInt(count)) => i64::from(*count),
        _ => 0,
    }
}

/// A header's value, if it is a text.
pub(super) fn text_header(delivery: &Delivery, name: &str) -> Option<String> {
    let headers = delivery.properties.headers().as_ref()?;
    headers.inner().get(name).and_then(as_text)
}

/// Why the broker dead-lettered the message by itself, in the broker's terms (`delivery_limit`, for example).
pub(super) fn broker_reason(delivery: &Delivery) -> Option<String> {
    let headers = delivery.properties.headers().as_ref()?;
    let AMQPValue::FieldArray(deaths) = headers.inner().get(DEATH_HEADER)? else {
        return None;
    };
    // The latest entry comes first.
    let AMQPValue::FieldTable(latest) = deaths.as_slice().first()? else {
        return None;
    };
    latest.inner().get("reason").and_then(as_text)
}

/// The headers of a copy: all but the broker's count, and the user who published the message.
pub(super) fn copied_headers(delivery: &Delivery) -> FieldTable {
    let mut headers = match delivery.properties.headers() {
        Some(headers) => without(headers, |name| name == DELIVERY_COUNT_HEADER),
        None => FieldTable::default(),
    };
    if let Some(user) = delivery.properties.user_id() {
        headers.insert(USER_ID_HEADER.into(), text_value(user.as_str()));
    }
    headers
}

/// The properties of a copy, without headers. The user is left out because the broker would refuse it, and the expiry
/// because the copy must not get lost. The copy is persistent whatever the original was.
pub(super) fn copied_properties(delivery: &Delivery) -> BasicProperties {
    let from = &delivery.properties;
    let mut kept = BasicProperties::default().with_delivery_mode(PERSISTENT);
    macro_rules! keep {
        ($($get:ident $with:ident),+ $(,)?) => {$(
            if let Some(value) = from.$get() {
                kept = kept.$with(value.clone());
            }
        )+};
    }
    keep!(
        content_type with_content_type,
        content_encoding with_content_encoding,
        priority with_priority,
        correlation_id with_correlation_id,
        reply_to with_reply_to,
        message_id with_message_id,
        timestamp with_timestamp,
        kind with_type,
        app_id with_app_id,
        cluster_id with_cluster_id,
    );
    kept
}

/// The headers without what the broker adds when it dead-letters a message. With its own note of the dead-letter queue,
/// the broker would take a message that is published there for one that goes in a circle.
pub(super) fn without_broker_deaths(headers: &FieldTable) -> FieldTable {
    without(headers, is_broker_death)
}

/// The headers without any trace of having been dead-lettered, the broker's or ours.
pub(super) fn without_dead_letter_headers(headers: &FieldTable) -> FieldTable {
    let ours = [
        REASON_HEADER,
        EXCHANGE_HEADER,
        ROUTING_KEY_HEADER,
        USER_ID_HEADER,
    ];
    without(headers, |name| {
        ours.contains(&name) || is_broker_death(name)
    })
}

fn is_broker_death(name: &str) -> bool {
    name == DEATH_HEADER
        || name.starts_with(FIRST_DEATH_PREFIX)
        || name.starts_with(LAST_DEATH_PREFIX)
}

fn without(headers: &FieldTable, is_unwanted: impl Fn(&str) -> bool) -> FieldTable {
    let mut kept = FieldTable::default();
    for (name, value) in headers.inner() {
        if !is_unwanted(name.as_str()) {
            kept.insert(name.clone(), value.clone());
        }
    }
    kept
}

/// A text as a header's value.
pub(super) fn text_value(value: &str) -> AMQPValue {
    AMQPValue::LongString(value.into())
}

fn as_text(value: &AMQPValue) -> Option<String> {
    if let AMQPValue::LongString(text) = value {
        Some(text.to_string())
    } else if let AMQPValue::ShortString(text) = value {
        Some(text.to_string())
    } else {
        None
    }
}

/// The text in printable ASCII and of bounded length, fit for a header and for a line of a log.
pub(super) fn printable(text: &str) -> String {
    text.chars()
        .map(|char| {
            if char.is_ascii_graphic() || char == ' ' {
                char
            } else {
                '?'
            }
        })
        .take(HEADER_CHARS_MAX)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_short_printable_ascii() {
        assert_eq!(printable("nö\nway"), "n??way");
        assert_eq!(printable(&"ä".repeat(1000)).len(), HEADER_CHARS_MAX);
    }

    #[test]
    fn a_requeued_command_has_no_history() {
        let mut headers = FieldTable::default();
        for name in [
            "x-bridge-reason",
            "x-death",
            "x-first-death-queue",
            "traceparent",
        ] {
            headers.insert(name.into(), text_value("v"));
        }
        let kept = without_dead_letter_headers(&headers);
        let names: Vec<_> = kept
            .inner()
            .keys()
            .map(lapin::types::ShortString::as_str)
            .collect();
        assert_eq!(names, ["traceparent"]);
    }
}
