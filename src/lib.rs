//! AlexNet: six variants, PyTorch's numbers, batch inference.
//!
//! ```text
//! net      six networks as constant data ──┐
//! weights  .safetensors, .pth, seed:N ─────┼─> StoredWeights, Weights ──> Backend (weights on a device, once)
//!                                          └─> Plan ─────> Session (its buffers) ──> logits, top-k, activations
//! image    JPEG, PNG, WebP, BMP, GIF ──> uint8 (N, H, W, 3) ──────────┘
//! input    files, folders, globs, lists, packs, decoded ahead in order
//! ```
//!
//! [`net`] holds the descriptions and infers shapes from a checkpoint's tensors; [`plan`] turns a network and a batch size
//! into fused steps over a few buffers; a [`backend`] runs plans. [`cpu`] is the backend that runs everywhere, and
//! [`cpu::naive`] the oracle that every kernel is tested against; `cuda` runs the
//! kernels in `kernels/`; [`parallel`] gives batches to several devices in turn, [`split`] divides a plan between two
//! towers. What measurements leave is a [`record`], with [`statistics`] over what was measured and the [`roofline`] beside it.
//! Activations are NHWC and filters KRSC throughout; checkpoints and the oracle keep PyTorch's NCHW and KCRS.
//!
//! Most programs need [`Model`] alone:
//!
//! ```
//! use alexnet::{Model, Options};
//!
//! // The built-in demo, which names drawn shapes; Model::load takes a file, IMAGENET1K_V1 or seed:N.
//! let model = Model::demo(&Options::default())?;
//! let results = model.predict_files(&["samples/shapes/star/0.jpg", "samples/shapes/ring/0.jpg"], 3)?;
//! for result in results {
//!     let best = result?[0];
//!     println!("{} {:.3}", model.label(best.index), best.score);
//! }
//! # Ok::<(), alexnet::Error>(())
//! ```
//!
//! Pixels that are decoded already, and named activations:
//!
//! ```
//! use alexnet::{Input, Model, Options};
//!
//! let model = Model::demo(&Options::default())?;
//! let pixels = vec![128u8; 2 * 224 * 224 * 3]; // two grey pictures, RGB (N, H, W, 3)
//! let predictions = model.predict_pixels(&pixels, 5)?;
//! assert_eq!((predictions.len(), predictions[0].len()), (2, 5));
//!
//! let layers = model.activations(Input::Pixels(&pixels), &["pool5", "fc7"])?;
//! assert_eq!(layers[0].shape, [2, 6, 6, 32]); // (N, H, W, C); the demo is narrow
//! assert_eq!(layers[1].shape, [2, 1, 1, 128]);
//! # Ok::<(), alexnet::Error>(())
//! ```

#![warn(missing_docs)]

#[cfg(not(unix))]
compile_error!("alexnet reads packs and file names with Unix calls: Linux and macOS are supported");

pub mod backend;
pub mod cpu;
#[cfg(feature = "cuda")]
pub mod cuda;
mod error;
pub mod file;
pub mod image;
pub mod input;
mod model;
pub mod net;
mod options;
pub mod parallel;
mod pixels;
pub mod plan;
pub mod record;
pub mod roofline;
pub mod split;
pub mod statistics;
pub mod weights;

pub use backend::{
    BatchTimes, Done, Gpu, Holding, Input, Interval, Pipeline, Prediction, Score, Scored, Session, Span, StepAsRun,
    Timeline, Track, Work,
};
pub use error::{Error, Result};
pub use model::{Model, NOT_FINITE, demo_checkpoint, open_checkpoint};
pub use options::{Device, Fc, Options, Precision, Split};
pub use pixels::Pixels;

/// The README's example compiles.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct ReadmeExamples;
