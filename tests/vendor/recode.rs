//! What the bridge makes of the bytes of others: reads lines `MESSAGE HEX`, decodes each as the message
//! of that name, and prints the bytes it encodes it to, in hex, or with `error` and the reason.
//! `tests/vendor/descriptors.py` compares them with what the vendor's own classes produce.

mod messages;

use std::collections::BTreeMap;
use std::io::{BufRead, BufWriter, Write, stdin, stdout};

use messages::{MESSAGES, MessageType};

fn main() -> std::io::Result<()> {
    let types: BTreeMap<&str, &MessageType> =
        MESSAGES.iter().map(|kind| (kind.name, kind)).collect();
    let mut output = BufWriter::new(stdout().lock());
    for line in stdin().lock().lines() {
        match recode(&types, &line?) {
            Ok(bytes) => writeln!(output, "{}", hex::encode(bytes))?,
            Err(reason) => writeln!(output, "error {reason}")?,
        }
    }
    output.flush()
}

fn recode(types: &BTreeMap<&str, &MessageType>, line: &str) -> Result<Vec<u8>, String> {
    let (name, digits) = line.split_once(' ').ok_or("the line is not MESSAGE HEX")?;
    let message = types
        .get(name)
        .ok_or_else(|| format!("{name} is no message"))?;
    let bytes = hex::decode(digits).map_err(|err| format!("that is not hex: {err}"))?;
    (message.recode)(&bytes).map_err(|err| format!("that is no {}: {err}", (message.type_name)()))
}
