//! The one integration test binary: a file a behaviour.

#![expect(
    clippy::indexing_slicing,
    reason = "a test that panics has failed, as it should"
)]

mod bindings;
