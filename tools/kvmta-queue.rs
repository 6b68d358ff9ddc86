//! kvmta-queue: finds messages in a queue by anything an operator knows of them, shows them, and changes them.
//!
//! Everything is in [`kvmta::cli::operator`].

use std::process::ExitCode;

fn main() -> ExitCode {
    kvmta::cli::operator::main(std::env::args_os().collect())
}
