//! What the bridge makes of the bytes of others: reads lines `MESSAGE HEX`, decodes each as the message
//! of that name, and answers with the bytes it encodes it to, in hex, or with `error` and the reason.
//! `tests/vendor/descriptors.py` compares them with what the vendor's own classes say.

mod messages;

use std::collections::BTreeMap;
use std::io::{BufRead, BufWriter, Write, stdin, stdout};

use messages::{Known, MESSAGES};

fn main() -> std::io::Result<()> {
    let known: BTreeMap<&str, &Known> = MESSAGES.iter().map(|known| (known.name, known)).collect();
    let mut answers = BufWriter::new(stdout().lock());
    for line in stdin().lock().lines() {
        match answer(&known, &line?) {
            Ok(bytes) => writeln!(answers, "{}", hex::encode(bytes))?,
            Err(reason) => writeln!(answers, "error {reason}")?,
        }
    }
    answers.flush()
}

fn answer(known: &BTreeMap<&str, &Known>, line: &str) -> Result<Vec<u8>, String> {
    let (name, digits) = line.split_once(' ').ok_or("the line is not MESSAGE HEX")?;
    let message = known
        .get(name)
        .ok_or_else(|| format!("{name} is no message"))?;
    let bytes = hex::decode(digits).map_err(|err| format!("that is not hex: {err}"))?;
    (message.recode)(&bytes).map_err(|err| format!("that is no {}: {err}", (message.type_name)()))
}
