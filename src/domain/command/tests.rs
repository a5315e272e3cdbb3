//! What is a command, what is poison, and that the two directions agree.

use std::collections::HashSet;

use proptest::prelude::*;
use time::macros::datetime;

use super::*;

const GOOD: &str = r#"{"id":"8b0f2c52-6d0e-4f0a-9a53-0c1f3f8f2a11","command":"start","userId":"lance@lwk.space","accountId":5150705,"issuedAt":"2026-11-23T05:42:00.000123Z"}"#;

fn good() -> Command {
    Command {
        id: "8b0f2c52-6d0e-4f0a-9a53-0c1f3f8f2a11"
            .parse()
            .expect("uuid"),
        kind: CommandKind::Start,
        user: UserId::new("lance@lwk.space").expect("user"),
        account: Some(AccountId(5_150_705)),
        issued_at: datetime!(2026-11-23 05:42:00.000123 UTC),
    }
}

/// `GOOD` with the value of one field replaced by some JSON, or the field left out.
fn with(field: &str, json: Option<&str>) -> String {
    let mut object: serde_json::Map<String, Value> = serde_json::from_str(GOOD).expect("object");
    object.remove(field);
    let mut text = serde_json::to_string(&object).expect("json");
    if let Some(json) = json {
        text.pop();
        text = format!("{text},\"{field}\":{json}}}");
    }
    text
}

fn parse_with(field: &str, json: &str) -> Result<Command, CommandError> {
    Command::parse(with(field, Some(json)).as_bytes())
}

#[test]
fn the_example_of_the_contract_is_a_command() {
    assert_eq!(Command::parse(GOOD.as_bytes()), Ok(good()));
    assert_eq!(good().to_json(), GOOD);
}

#[test]
fn golden_files_are_commands_and_the_canonical_ones_are_what_we_write() {
    let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/commands");
    let mut seen = 0;
    for entry in std::fs::read_dir(dir).expect("fixtures") {
        let path = entry.expect("entry").path();
        if path.extension().is_none_or(|extension| extension != "json") {
            continue;
        }
        let body = std::fs::read_to_string(&path).expect("readable");
        let name = path.file_stem().expect("name").to_string_lossy();
        let command = Command::parse(body.as_bytes()).unwrap_or_else(|err| panic!("{name}: {err}"));
        if !name.starts_with("lenient-") {
            assert_eq!(command.to_json(), body.trim_end(), "{name}");
        }
        assert_eq!(
            Command::parse(command.to_json().as_bytes()),
            Ok(command),
            "{name}"
        );
        seen += 1;
    }
    assert!(seen >= 7, "{seen} golden files");
}

#[test]
fn account_id_is_a_positive_number_or_its_digits_or_nothing() {
    for json in ["5150705", "\"5150705\"", "\"005150705\""] {
        let command = parse_with("accountId", json).expect("good");
        assert_eq!(command.account, Some(AccountId(5_150_705)), "{json}");
    }
    let most = parse_with("accountId", "9223372036854775807").expect("good");
    assert_eq!(most.account, Some(AccountId(i64::MAX)));
    let null = parse_with("accountId", "null").expect("good");
    assert_eq!(null.account, None);
    let absent = Command::parse(with("accountId", None).as_bytes()).expect("good");
    assert_eq!(absent.account, None);
}

#[test]
fn issued_at_becomes_utc_in_whole_microseconds() {
    for (text, time) in [
        ("2026-11-23T05:42:00Z", datetime!(2026-11-23 05:42:00 UTC)),
        (
            "2026-11-23T07:12:00.5+01:30",
            datetime!(2026-11-23 05:42:00.5 UTC),
        ),
        (
            "2026-11-23T05:42:00.123456789Z",
            datetime!(2026-11-23 05:42:00.123456 UTC),
        ),
    ] {
        let command = parse_with("issuedAt", &format!("\"{text}\"")).expect("good");
        assert_eq!(command.issued_at, time, "{text}");
        assert_eq!(command.issued_at.offset(), UtcOffset::UTC);
    }
}

#[test]
fn unknown_fields_are_ignored_whatever_they_hold() {
    let body = with("extra", Some(r#"{"a":[1,{"b":null}]},"extra":2"#));
    assert_eq!(Command::parse(body.as_bytes()), Ok(good()));
}

#[test]
fn every_kind_of_poison_has_its_own_reason() {
    use CommandError as E;
    let text = |json: &str| json.as_bytes().to_vec();
    let field = |field: &str, json: &str| with(field, Some(json)).into_bytes();
    let long_user = format!("\"{}\"", "ä".repeat(321));
    let cases: Vec<(Vec<u8>, CommandError)> = vec![
        (vec![b'{', 0xff, b'}'], E::NotUtf8),
        (text(""), E::NotJson),
        (text("start"), E::NotJson),
        (text(&GOOD[..GOOD.len() - 1]), E::NotJson),
        (text(&format!("{GOOD}{GOOD}")), E::NotJson),
        (text(&format!("\u{feff}{GOOD}")), E::NotJson),
        (text(&"[".repeat(60_000)), E::NotAnObject),
        (text(&format!("{{\"x\":{}", "[".repeat(60_000))), E::NotJson),
        (text("[]"), E::NotAnObject),
        (text("null"), E::NotAnObject),
        (text("\"start\""), E::NotAnObject),
        (vec![b' '; 70_000], E::TooLong),
        (text("{}"), E::Missing("id")),
        (with("command", None).into(), E::Missing("command")),
        (with("userId", None).into(), E::Missing("userId")),
        (with("issuedAt", None).into(), E::Missing("issuedAt")),
        (field("id", "7"), E::NotAString("id")),
        (field("command", "null"), E::NotAString("command")),
        (field("userId", "{}"), E::NotAString("userId")),
        (field("issuedAt", "1764000000"), E::NotAString("issuedAt")),
        (field("id", "\"8b0f2c52\""), E::Id),
        (field("id", "\"8b0f2c526d0e4f0a9a530c1f3f8f2a11\""), E::Id),
        (field("command", "\"restart\""), E::UnknownCommand),
        (field("command", "\"START\""), E::UnknownCommand),
        (field("userId", "\"\""), E::User(UserIdError::Empty)),
        (field("userId", &long_user), E::User(UserIdError::TooLong)),
        (field("userId", "\"a\\u0000\""), E::User(UserIdError::Nul)),
        (field("userId", "\"\\ud800\""), E::NotJson),
        (field("accountId", "true"), E::AccountType),
        (field("accountId", "[5150705]"), E::AccountType),
        (field("accountId", "\"\""), E::AccountType),
        (field("accountId", "\"-5\""), E::AccountType),
        (field("accountId", "\"0x10\""), E::AccountType),
        (field("accountId", "0"), E::AccountNotPositive),
        (field("accountId", "\"0\""), E::AccountNotPositive),
        (field("accountId", "-5150705"), E::AccountNotPositive),
        (field("accountId", "1.5"), E::AccountNotWhole),
        (field("accountId", "5150705.0"), E::AccountNotWhole),
        (field("accountId", "5e6"), E::AccountNotWhole),
        (
            field("accountId", "9223372036854775808"),
            E::AccountTooLarge,
        ),
        (field("accountId", "1e30"), E::AccountTooLarge),
        (field("accountId", "1e999"), E::NotJson),
        (
            field("accountId", "\"9223372036854775808\""),
            E::AccountTooLarge,
        ),
        (field("issuedAt", "\"yesterday\""), E::Time),
        (field("issuedAt", "\"2026-02-30T00:00:00Z\""), E::Time),
        (field("issuedAt", "\"9999-12-31T23:59:59-01:00\""), E::Time),
        (field("issuedAt", "\"0000-01-01T00:00:00+01:00\""), E::Time),
        (
            field("issuedAt", "\"2026-11-23T05:42:00\""),
            E::TimeWithoutOffset,
        ),
        (
            field("accountId", "1,\"accountId\":1"),
            E::Duplicate("accountId"),
        ),
        (
            field("command", "\"stop\",\"command\":\"start\""),
            E::Duplicate("command"),
        ),
    ];
    let mut reasons = HashSet::new();
    for (body, expected) in cases {
        let shown = String::from_utf8_lossy(&body[..body.len().min(200)]).into_owned();
        assert_eq!(Command::parse(&body), Err(expected), "{shown}");
        reasons.insert(expected.to_string());
    }
    assert_eq!(reasons.len(), 25, "{reasons:#?}");
    for reason in reasons {
        assert!(reason.len() <= 255 && reason.is_ascii(), "{reason}");
    }
}

#[test]
fn a_body_of_exactly_the_limit_is_read() {
    let body = format!("{GOOD}{}", " ".repeat(BODY_BYTES_MAX - GOOD.len()));
    assert_eq!(Command::parse(body.as_bytes()), Ok(good()));
    let body = format!("{body} ");
    assert_eq!(Command::parse(body.as_bytes()), Err(CommandError::TooLong));
}

fn commands() -> impl Strategy<Value = Command> {
    (
        any::<u128>(),
        any::<bool>(),
        "[^\0]{1,320}",
        proptest::option::of(1..=i64::MAX),
        // The years 0 to 9999, in microseconds.
        -62_167_219_200_000_000i64..253_402_300_800_000_000,
    )
        .prop_map(|(id, start, user, account, micros)| Command {
            id: Uuid::from_u128(id),
            kind: if start {
                CommandKind::Start
            } else {
                CommandKind::Stop
            },
            user: UserId::new(user).expect("1 to 320 characters"),
            account: account.map(AccountId),
            issued_at: OffsetDateTime::from_unix_timestamp_nanos(i128::from(micros) * 1000)
                .expect("in range"),
        })
}

proptest! {
    #[test]
    fn no_bytes_make_parsing_panic(body in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = Command::parse(&body);
    }

    #[test]
    fn no_damage_to_a_good_body_makes_parsing_panic(
        at in 0..GOOD.len(), len in 0..20usize, patch in proptest::collection::vec(any::<u8>(), 0..20)
    ) {
        let mut body = GOOD.as_bytes().to_vec();
        let end = (at + len).min(body.len());
        body.splice(at..end, patch);
        if let Ok(command) = Command::parse(&body) {
            prop_assert_eq!(Command::parse(command.to_json().as_bytes()), Ok(command));
        }
    }

    #[test]
    fn no_value_of_a_field_makes_parsing_panic(
        field in prop_oneof!["id", "command", "userId", "accountId", "issuedAt"], value in "\\PC{0,40}"
    ) {
        let json = serde_json::to_string(&value).expect("json");
        let _ = parse_with(&field, &json);
        let _ = parse_with(&field, &value);
    }

    #[test]
    fn what_is_written_is_read_back(command in commands()) {
        prop_assert_eq!(Command::parse(command.to_json().as_bytes()), Ok(command));
    }
}
