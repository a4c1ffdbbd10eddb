//! From what the user names on the command line to pixels.
//!
//! [`Sources::expand`] turns arguments (files, folders, glob patterns, `.npy` packs, `-`) into an ordered list;
//! [`Feed`] decodes it on its own threads while the caller computes, and hands out batches of uint8 pixels (N, H, W, 3)
//! in input order. [`Pack`] and [`PackWriter`] are the decoded pictures as one NumPy file.

mod feed;
mod npy;
mod pattern;
mod queue;
mod sources;

pub use feed::{Batch, Feed, FeedOptions, Row};
pub use npy::{Pack, PackWriter};
pub use sources::{EXTENSIONS, Sources};
