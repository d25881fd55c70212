//! Placeholder-free entry of `cargo bench`; see below.
fn main() {}
