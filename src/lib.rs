//! s3haul moves objects between S3 buckets without moving bytes through the machine that it runs
//! on.
//!
//! ```text
//!  manifest ──► listing ──► plan ──► execute ──► report
//!  (YAML,CLI)   (pages of    (pure:    (requests     (receipts,
//!               entries)     steps,    under pace)    totals, proof)
//!                            parts)       ▲
//!                                      pace (places in flight, limits, learned rates)
//! ```
//!
//! A [`manifest::job::Job`] says what is to be copied. [`connections::Connections`] turns its names
//! into [`bucket::Bucket`]s that answer, [`planner::Sides`] lists and compares them into steps, and
//! [`execute::run`] carries the steps out, telling an [`execute::monitor::Monitor`] what happens.
//! [`multipart::MultipartUpload`] stands on its own for programs that want no more than that.
//!
//! # Layout
//!
//! In the order of the data flow; a module uses only what stands above it.
//!
//! | module | what it is for |
//! |---|---|
//! | [`printable`] | escapes of untrusted text |
//! | [`size`], [`location`] | sizes, rates, durations; buckets, keys, URIs, paths |
//! | [`endpoint`] | endpoints: typed values, environment, and profiles to one resolved endpoint |
//! | [`manifest`] | YAML to a validated job, mistakes drawn at their line |
//! | [`s3`] | the requests, in types of our own; every failure sorted; what an endpoint can do |
//! | [`checksum`] | CRCs of parts and wholes, predicted `ETag`s |
//! | [`pace`] | places in flight, user limits, learned rates, retries |
//! | [`bucket`] | a bucket behind the pacer: every request is sent here |
//! | [`multipart`] | multipart uploads, the library |
//! | [`probe`] | what an endpoint really does, measured |
//! | [`listing`] | what is there, in key order: buckets, directories, filters, the join of two sides |
//! | [`plan`] | pure decisions: keys, routes, parts, attributes, totals |
//! | [`connections`] | the buckets of a job, asked once before any work |
//! | [`planner`] | listings in, steps out |
//! | [`journal`] | what a run has done, so that one that is killed goes on |
//! | [`execute`] | the conductor, copies, uploads, proofs, receipts |
//! | [`report`] | receipts and summaries |
//! | [`verify`] | are two sides equal |
//! | [`telemetry`] | logs |
#![cfg_attr(feature = "sandbox", doc = "| [`sandbox`] | an S3 in this process |")]
//! | [`cli`] | the command line |

mod awake;
pub mod bucket;
pub mod checksum;
pub mod cli;
pub mod connections;
pub mod endpoint;
pub mod execute;
pub mod journal;
pub mod listing;
pub mod location;
pub mod manifest;
pub mod multipart;
pub mod pace;
pub mod plan;
pub mod planner;
pub mod printable;
pub mod probe;
pub mod report;
pub mod s3;
pub mod size;
pub mod telemetry;
pub mod verify;

#[cfg(feature = "sandbox")]
pub use s3haul_sandbox as sandbox;
