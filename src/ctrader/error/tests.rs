use super::*;
use crate::ctrader::wire::{ProtoErrorCode, ProtoOaErrorCode};

/// All names of both enums.
fn schema() -> Vec<&'static str> {
    let common = (0..1_000).filter_map(|n| ProtoErrorCode::try_from(n).ok());
    let own = (0..1_000).filter_map(|n| ProtoOaErrorCode::try_from(n).ok());
    common
        .map(|code| code.as_str_name())
        .chain(own.map(|code| code.as_str_name()))
        .collect()
}

#[test]
fn every_code_of_the_schema_stands_in_the_table_once() {
    let mut listed: Vec<&str> = TABLE.iter().map(|(code, _)| *code).collect();
    let all = listed.len();
    listed.sort_unstable();
    listed.dedup();
    assert_eq!(listed.len(), all, "each once");
    let missing: Vec<&str> = schema()
        .into_iter()
        .filter(|code| !listed.contains(code))
        .collect();
    assert_eq!(missing, Vec::<&str>::new());
    assert_eq!(schema().len(), 53, "a name less is an expectation less");
}

/// The same knowledge the other way round: by what is to be done.
#[test]
#[expect(clippy::too_many_lines, reason = "one line a kind")]
fn each_kind_of_refusal_is_what_the_protocol_makes_it() {
    let expected: &[(Disposition, &[&str])] = &[
        (
            Disposition::Success,
            &[
                "ALREADY_LOGGED_IN",
                "CH_CLIENT_ALREADY_AUTHENTICATED",
                "ALREADY_SUBSCRIBED",
            ],
        ),
        (
            Disposition::RetrySoon,
            &[
                "TIMEOUT_ERROR",
                "CONCURRENT_MODIFICATION",
                "POSITION_LOCKED",
                "PENDING_EXECUTION",
            ],
        ),
        (
            Disposition::BackOff,
            &[
                "UNKNOWN_ERROR",
                "CANT_ROUTE_REQUEST",
                "BLOCKED_PAYLOAD_TYPE",
                "CH_SERVER_NOT_REACHABLE",
                "REQUEST_FREQUENCY_EXCEEDED",
                "SERVER_IS_UNDER_MAINTENANCE",
                "SOMETHING_NEW",
                "",
            ],
        ),
        (
            Disposition::BackOffLong,
            &["CONNECTIONS_LIMIT_EXCEEDED", "CHANNEL_IS_BLOCKED"],
        ),
        (
            Disposition::ReauthoriseApplication,
            &["CH_CLIENT_NOT_AUTHENTICATED"],
        ),
        (Disposition::ReauthoriseAccount, &["ACCOUNT_NOT_AUTHORIZED"]),
        (
            Disposition::RefreshToken,
            &["OA_AUTH_TOKEN_EXPIRED", "CH_ACCESS_TOKEN_INVALID"],
        ),
        (
            Disposition::GiveUp,
            &[
                "RET_NO_SUCH_LOGIN",
                "RET_ACCOUNT_DISABLED",
                "CH_CTID_TRADER_ACCOUNT_NOT_FOUND",
            ],
        ),
        (
            Disposition::StopApplication,
            &["CH_CLIENT_AUTH_FAILURE", "CH_OA_CLIENT_NOT_FOUND"],
        ),
        (
            Disposition::CallerError,
            &[
                "UNSUPPORTED_MESSAGE",
                "INVALID_REQUEST",
                "ENTITY_NOT_FOUND",
                "FRAME_TOO_LONG",
                "INCORRECT_BOUNDARIES",
                "NOT_SUBSCRIBED_TO_SPOTS",
                "SYMBOL_NOT_FOUND",
                "UNKNOWN_SYMBOL",
                "TRADING_BAD_VOLUME",
                "TRADING_BAD_STOPS",
                "TRADING_BAD_PRICES",
                "TRADING_BAD_STAKE",
                "PROTECTION_IS_TOO_CLOSE_TO_MARKET",
                "TRADING_BAD_EXPIRATION_DATE",
            ],
        ),
        (
            Disposition::TradingRefused,
            &[
                "MARKET_CLOSED",
                "WORSE_GSL_NOT_ALLOWED",
                "SYMBOL_HAS_HOLIDAY",
                "NO_QUOTES",
                "NOT_ENOUGH_MONEY",
                "MAX_EXPOSURE_REACHED",
                "POSITION_NOT_FOUND",
                "ORDER_NOT_FOUND",
                "POSITION_NOT_OPEN",
                "TOO_MANY_POSITIONS",
                "TRADING_DISABLED",
                "TRADING_NOT_ALLOWED",
                "UNABLE_TO_CANCEL_ORDER",
                "UNABLE_TO_AMEND_ORDER",
                "SHORT_SELLING_NOT_ALLOWED",
            ],
        ),
    ];
    let mut told = Vec::new();
    for (kind, codes) in expected {
        for code in *codes {
            assert_eq!(disposition(code), *kind, "{code}");
            told.push(*code);
        }
    }
    // Withdrawn, and never asked for.
    told.extend(["NOT_SUBSCRIBED_TO_PNL", "WRONG_PASSWORD"]);
    let untold: Vec<&str> = schema()
        .into_iter()
        .filter(|code| !told.contains(code))
        .collect();
    assert_eq!(untold, Vec::<&str>::new(), "a code without an expectation");
}

#[test]
fn a_request_for_an_unauthorised_account_is_known_by_code_or_by_text() {
    let mut refusal = Refusal::with_code("INVALID_REQUEST");
    assert_eq!(refusal.disposition(), Disposition::CallerError);
    refusal.description = Some("Trading account is not authorized".to_owned());
    assert_eq!(refusal.disposition(), Disposition::ReauthoriseAccount);
}

#[test]
fn no_reason_for_a_user_is_empty_or_names_a_token() {
    for (code, _) in TABLE {
        let text = Refusal::with_code(*code).for_user();
        assert!(
            !text.is_empty() && !text.to_lowercase().contains("token "),
            "{text}"
        );
    }
}
