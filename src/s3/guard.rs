//! Turns a panic inside a credential provider into the failure of one renewal.
//!
//! The SDK's providers panic in some states of the machine, for example if configuration files
//! vanish. A provider that panics is treated as a provider without credentials: the failure is
//! reported like any other, and the provider is asked again later. The panic hook of the process
//! calls [`takes_panic`], so that it does not report such a panic as a bug of s3haul.

use std::cell::{Cell, RefCell};
use std::error::Error;
use std::fmt;
use std::future::{Future, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;

thread_local! {
    static IS_GUARDED: Cell<bool> = const { Cell::new(false) };
    static PLACE: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Returns true on a thread that is inside a credential provider, and notes the place of the panic
/// there.
pub(crate) fn takes_panic(place: &str) -> bool {
    let is_guarded = IS_GUARDED.get();
    if is_guarded {
        PLACE.with(|noted| {
            if let Ok(mut noted) = noted.try_borrow_mut() {
                place.clone_into(&mut noted);
            }
        });
    }
    is_guarded
}

/// The error for a provider that panicked.
#[derive(Debug)]
pub(super) struct Panicked {
    /// The file and line, if the panic hook of the process notes them.
    pub(super) place: String,
}

impl fmt::Display for Panicked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the AWS SDK panicked while it asked for credentials")
    }
}

impl Error for Panicked {}

/// Marks this thread as guarded until it is dropped.
struct GuardMark;

impl GuardMark {
    fn set() -> Self {
        IS_GUARDED.set(true);
        Self
    }
}

impl Drop for GuardMark {
    fn drop(&mut self) {
        IS_GUARDED.set(false);
    }
}

/// Runs a provider.
///
/// # Errors
/// Returns [`Panicked`] if the provider panics.
pub(super) async fn guarded<T>(provider: impl Future<Output = T>) -> Result<T, Panicked> {
    let mut provider = pin!(provider);
    poll_fn(|context| {
        let polled = {
            let _mark = GuardMark::set();
            catch_unwind(AssertUnwindSafe(|| provider.as_mut().poll(context)))
        };
        match polled {
            Ok(polled) => polled.map(Ok),
            Err(_) => Err(Panicked {
                place: PLACE.take(),
            })
            .into(),
        }
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_is_an_error_and_the_mark_ends_with_it() {
        let broken = async {
            tokio::task::yield_now().await;
            assert!(takes_panic("sdk/src/file.rs:1"), "inside");
            panic!("no files");
        };
        let Panicked { place } = guarded::<()>(broken).await.unwrap_err();
        assert_eq!(place, "sdk/src/file.rs:1");
        assert!(!takes_panic("elsewhere"));
        assert_eq!(guarded(async { 7 }).await.unwrap(), 7);
    }
}
