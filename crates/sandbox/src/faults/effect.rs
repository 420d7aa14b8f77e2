//! The effects that a fault can have on a call.
//!
//! An effect works on the HTTP layer, so that the effect of an operation and its answer can be told
//! apart: an operation can take effect and be answered with an error, or with nothing at all.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use jiff::SignedDuration;

use crate::store::Store;

/// An effect on a call.
#[derive(Clone)]
pub enum Effect {
    /// An error instead of the operation.
    Error(u16, &'static str),
    /// The operation takes effect, the answer is an error.
    ErrorAfterEffect(u16, &'static str),
    /// 503 `SlowDown` instead of the operation.
    SlowDown,
    /// Status 200 with an `Error` document.
    ErrorIn200 {
        /// The error code.
        code: &'static str,
        /// The operation takes effect all the same.
        after_effect: bool,
        /// Blanks between the XML declaration and the element, as S3 sends while it works.
        blanks: usize,
    },
    /// The answer of a success has blanks in front of its document, as while S3 works.
    Blanks {
        /// The number of calls.
        count: usize,
        /// Before the XML declaration, as some servers do, which parsers refuse; S3 sends them
        /// behind it.
        before_declaration: bool,
    },
    /// The connection closes without an answer, and nothing is done.
    ResetBefore,
    /// The operation takes effect, then the connection closes without an answer.
    ResetAfter,
    /// The connection ends with a TCP reset (RST) instead of an answer, and nothing is done.
    RstBefore,
    /// The operation takes effect, then the connection ends with a TCP reset (RST) instead of an
    /// answer.
    RstAfter,
    /// Silence for a time (`None`: until the client gives up), then the operation.
    StallBefore(Option<Duration>),
    /// The operation, then silence for a time (`None`: until the client gives up), then the answer.
    StallAfter(Option<Duration>),
    /// The operation takes effect; the connection closes in the middle of the answer's body.
    TruncateBody,
    /// The operation takes effect; the answer has its status and no body.
    EmptyBody,
    /// The operation takes effect; the answer's body comes one byte at a time, with this pause
    /// before each.
    Trickle(Duration),
    /// The answer is late. Delays of several faults add up, and another fault may have its effect
    /// behind them.
    Delay(Duration),
    /// The clock that the server judges signatures by, and puts into `Date`, is ahead by this much,
    /// or behind. Adds up with those of other faults, and another fault may have its effect beside
    /// it.
    Skew(SignedDuration),
    /// The operation takes effect with other bytes than it should: one byte of what is stored is
    /// wrong, and everything that the server computes from it (`ETag`, checksums) is that of the
    /// wrong bytes. For writes that carry or copy bytes.
    Corrupt,
    /// The operation as if the request had none of these headers and query parameters: what a
    /// server does that does not know them. The signature is not verified.
    Ignore(&'static [&'static str]),
    /// `CompleteMultipartUpload` publishes the object without its last part. The signature is not
    /// verified.
    DropPart,
    /// This answer instead of the operation: a status, a content type, and a body.
    Answer(u16, &'static str, &'static str),
    /// A closure runs when the call arrives, then the operation: to change the store behind the
    /// client's back.
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
    /// Returns a hook, see [`Effect::Hook`].
    pub fn hook(run: impl Fn(&Store) + Send + Sync + 'static) -> Self {
        Self::Hook(Arc::new(run))
    }

    /// Returns an error in a 200 that stands for an operation that was not done.
    #[must_use]
    pub fn error_in_200(code: &'static str) -> Self {
        Self::ErrorIn200 {
            code,
            after_effect: false,
            blanks: 0,
        }
    }
}
