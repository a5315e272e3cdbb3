//! `completions`: a script that makes a shell complete this program's arguments.

use clap::CommandFactory;
use clap_complete::Shell;

use super::arguments::Arguments;
use super::screen;

/// Prints the script for a shell.
pub(super) fn print(shell: Shell) {
    let mut script = Vec::new();
    let mut command = Arguments::command();
    let name = command.get_name().to_owned();
    clap_complete::generate(shell, &mut command, name, &mut script);
    screen::print(&String::from_utf8_lossy(&script));
}
