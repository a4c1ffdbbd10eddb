//! `alexnet convert`: any readable checkpoint as safetensors, with variant and labels in its metadata.

use std::path::PathBuf;

use alexnet::net::Variant;
use alexnet::{Result, open_checkpoint};

use super::{Outcome, args, init, note};

#[derive(clap::Args)]
pub struct Args {
    /// The checkpoint: a file, IMAGENET1K_V1 or seed:N.
    #[arg(value_name = "IN")]
    input: String,
    /// The .safetensors file to write; dtypes stay as they are.
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    /// Variant, where metadata and tensors do not tell.
    #[arg(short, long, value_name = "VARIANT", value_parser = args::variant_parser())]
    model: Option<&'static Variant>,
    /// A file with one class name a line, or a JSON list [default: the checkpoint's, or ImageNet's for 1000 classes].
    #[arg(long, value_name = "FILE")]
    labels: Option<PathBuf>,
}

pub fn run(args: &Args) -> Result<Outcome> {
    init::require_safetensors(&args.output)?;
    let mut checkpoint = open_checkpoint(&args.input, args.model)?;
    let variant = checkpoint.choose_variant(args.model)?;
    let classes = checkpoint.network(variant, variant.input_size)?.classes();
    checkpoint.labels = checkpoint.choose_labels(args.labels.as_deref(), classes)?;
    checkpoint.variant = Some(variant.name.into());
    checkpoint.reject_non_finite()?;
    checkpoint.save_safetensors(&args.output)?;
    note(&format!("wrote {}: {}, {classes} classes", args.output.display(), variant.name));
    Ok(Outcome::Done)
}
