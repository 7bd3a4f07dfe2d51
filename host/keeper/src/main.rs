//! The process that holds one container.

fn main() {}
