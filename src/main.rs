//! The `s3haul` command: everything it does is in the library, and [`s3haul::cli_main`] the way in.

use std::process::ExitCode;

/// Millions of requests with buffers of many sizes fragment the system's heap: between 20,000 and
/// 200,000 objects it grew by a third, with this one it does not. It is told (`no_thp`) to do
/// without transparent huge pages, which would keep 2 MiB for a few objects of a size: a sync of a
/// million keys has 46 MiB resident instead of 88, and takes no more CPU.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    s3haul::cli_main()
}
