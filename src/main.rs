//! argv → personality → exit status. Everything else is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    kvmta::cli::main(std::env::args_os().collect())
}
