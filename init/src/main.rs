//! `beyond-pg`: the command line, and what it wires.

fn main() {}
