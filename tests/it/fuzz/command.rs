//! Any bytes as the body of a command.

use mahspeccy_bridge::domain::command::Command;

/// What was understood of a command survives being written and read again; what was not is an
/// error that tells nothing of the body.
pub(crate) fn command(data: &[u8]) {
    match Command::parse(data) {
        Ok(first) => {
            assert!(first.account.is_none_or(|account| account.0 > 0));
            let json = first.to_json();
            let second = Command::parse(json.as_bytes()).expect("ours is well-formed");
            assert_eq!(first, second);
            assert_eq!(json, second.to_json());
            // Slots and keys are computed of every user.
            assert_eq!(first.user.key().len(), 64);
            assert!((0..1024).contains(&first.user.slot().0));
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}
