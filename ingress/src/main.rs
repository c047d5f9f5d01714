//! The binary `parkway`.
fn main() {}
