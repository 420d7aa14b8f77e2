//! All integration tests in one binary, because each binary links the SDK.

mod sandbox;
