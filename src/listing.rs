//! What is there: entries of a bucket or directory, in key order, and which of them take part.

pub mod filter;
