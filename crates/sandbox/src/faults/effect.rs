//! The effects that a fault can have on a call.
//!
//! Effects work on the HTTP layer. They can separate what an operation does from its answer: an
//! operation can take effect and still be answered with an error, or not at all.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use jiff::SignedDuration;

use crate::store::Store;

/// An effect on a call.
#[derive(Clone)]
pub enum Effect {
    /// An error answer; the operation is not performed.
    Error(u16, &'static str),
    /// The operation takes effect, but the answer is an error.
    ErrorAfterEffect(u16, &'static str),
    /// 503 `SlowDown`; the operation is not performed.
    SlowDown,
    /// An answer with status 200 and an `Error` document.
    ErrorIn200 {
        /// The error code.
        code: &'static str,
        /// True if the operation takes effect anyway.
        after_effect: bool,
        /// The number of blanks between the XML declaration and the element. S3 sends them while it
        /// works.
        blanks: usize,
    },
    /// A successful answer with blanks before its document, which S3 sends while it works.
    Blanks {
        /// The number of blanks.
        count: usize,
        /// True if the blanks are before the XML declaration, as some servers send them and parsers
        /// refuse them. S3 sends them after it.
        before_declaration: bool,
    },
    /// The connection closes without an answer, and the operation is not performed.
    ResetBefore,
    /// The operation takes effect, then the connection closes without an answer.
    ResetAfter,
    /// The connection ends with a TCP reset (RST) instead of an answer, and the operation is not
    /// performed.
    RstBefore,
    /// The operation takes effect, then the connection ends with a TCP reset (RST) instead of an
    /// answer.
    RstAfter,
    /// Silence for this time (`None`: until the client gives up), then the operation.
    StallBefore(Option<Duration>),
    /// The operation, then silence for this time (`None`: until the client gives up), then the
    /// answer.
    StallAfter(Option<Duration>),
    /// The operation takes effect, but the connection closes in the middle of the body of the
    /// answer.
    TruncateBody,
    /// The operation takes effect, but the answer has no body.
    EmptyBody,
    /// The operation takes effect, and the body of the answer arrives one byte at a time, with this
    /// pause before each.
    Trickle(Duration),
    /// The answer is late. The delays of several faults add up, and the call can have another
    /// effect too.
    Delay(Duration),
    /// The clock of the server is ahead by this much, or behind if negative. It decides whether a
    /// signature is too old, and sets the `Date` header. The skews of several faults add up, and
    /// the call can have another effect too.
    Skew(SignedDuration),
    /// The operation takes effect with wrong bytes: one byte of the stored object is wrong, and
    /// everything that the server computes from the bytes (`ETag`, checksums) matches the wrong
    /// ones. Applies to writes that carry or copy bytes.
    Corrupt,
    /// The request is handled as if it had none of these headers and query parameters, as by a
    /// server that does not know them. The signature is not verified.
    Ignore(&'static [&'static str]),
    /// `CompleteMultipartUpload` creates the object without its last part. The signature is not
    /// verified.
    DropPart,
    /// This answer instead of the operation: status, content type, and body.
    Answer(u16, &'static str, &'static str),
    /// A closure that runs when the call arrives, before the operation. Use it to change the store
    /// behind the client's back.
    Hook(Arc<dyn Fn(&Store) + Send + Sync>),
}

impl fmt::Debug for Effect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Error(status, code) => write!(f, "Error({status}, {code})"),
            Self::ErrorAfterEffect(status, code) => write!(f, "ErrorAfterEffect({status}, {code})"),
            Self::SlowDown => f.write_str("SlowDown"),
            Self::ErrorIn200 {
                code, after_effect, ..
            } => {
                write!(f, "ErrorIn200({code}, after_effect: {after_effect})")
            }
            Self::Blanks {
                count,
                before_declaration,
            } => {
                write!(
                    f,
                    "Blanks({count}, before_declaration: {before_declaration})"
                )
            }
            Self::ResetBefore => f.write_str("ResetBefore"),
            Self::ResetAfter => f.write_str("ResetAfter"),
            Self::RstBefore => f.write_str("RstBefore"),
            Self::RstAfter => f.write_str("RstAfter"),
            Self::StallBefore(time) => write!(f, "StallBefore({time:?})"),
            Self::StallAfter(time) => write!(f, "StallAfter({time:?})"),
            Self::TruncateBody => f.write_str("TruncateBody"),
            Self::EmptyBody => f.write_str("EmptyBody"),
            Self::Trickle(pause) => write!(f, "Trickle({pause:?})"),
            Self::Delay(time) => write!(f, "Delay({time:?})"),
            Self::Skew(offset) => write!(f, "Skew({offset:?})"),
            Self::Corrupt => f.write_str("Corrupt"),
            Self::Ignore(names) => write!(f, "Ignore({names:?})"),
            Self::DropPart => f.write_str("DropPart"),
            Self::Answer(status, kind, _) => write!(f, "Answer({status}, {kind})"),
            Self::Hook(_) => f.write_str("Hook"),
        }
    }
}

impl Effect {
    /// Creates a hook, see [`Effect::Hook`].
    pub fn hook(run: impl Fn(&Store) + Send + Sync + 'static) -> Self {
        Self::Hook(Arc::new(run))
    }

    /// Returns an error in a 200 answer to an operation that was not performed.
    #[must_use]
    pub fn error_in_200(code: &'static str) -> Self {
        Self::ErrorIn200 {
            code,
            after_effect: false,
            blanks: 0,
        }
    }
}
