//! From what the user names on the command line to pixels.
//!
//! [`Sources::expand`] turns arguments (files, folders, glob patterns, `.npy` packs, `-`) into an ordered list;
//! [`Feed`] decodes it on its own threads, into buffers of the caller's, while the caller computes, and hands out batches
//! of uint8 pixels (N, H, W, 3) in input order. [`Pack`] and [`PackWriter`] are the decoded pictures as one NumPy file.

mod buffers;
mod feed;
mod npy;
mod pattern;
mod queue;
mod sources;

pub use feed::{Batch, Fed, Feed, FeedOptions, Row};
pub use npy::{Pack, PackWriter};
pub use sources::{EXTENSIONS, Sources};
