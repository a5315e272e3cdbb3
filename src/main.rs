//! The production binary. All of it is in the library, from [`mahspeccy_bridge::cli`] on.

use std::process::ExitCode;

fn main() -> ExitCode {
    mahspeccy_bridge::cli::main()
}
