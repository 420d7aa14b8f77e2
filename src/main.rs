//! The `s3haul` command: everything it does is in the library, [`s3haul::cli`] is its thin front.

use std::process::ExitCode;

fn main() -> ExitCode {
    s3haul::cli::main()
}
