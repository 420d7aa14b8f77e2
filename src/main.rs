//! The `s3haul` command: everything it does is in the library, [`s3haul::cli`] is its thin front.

use std::process::ExitCode;

/// Millions of requests with buffers of many sizes fragment the system's heap: between 20,000 and 200,000 objects it
/// grew by a third, with this one it does not.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    s3haul::cli::main()
}
