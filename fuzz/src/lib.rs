//! What the targets run: the bodies that the bridge's own tests have, which run the saved inputs.

#[path = "../../tests/it/fuzz/mod.rs"]
mod fuzz;

/// Any bytes as a frame.
pub fn frame(data: &[u8]) {
    fuzz::frame(data);
}

/// Any bytes as the body of a command.
pub fn command(data: &[u8]) {
    fuzz::command(data);
}

/// Any bytes as the story of a socket.
pub fn session(data: &[u8]) {
    fuzz::session(data);
}
