//! `alexnet init`: a checkpoint of fresh weights.

use std::path::PathBuf;

use alexnet::net::init::{Scheme, draw};
use alexnet::net::{Network, Variant};
use alexnet::weights::{Checkpoint, Tensor};
use alexnet::{Error, Result};
use clap::ValueEnum;

use super::{Outcome, args, note};

#[derive(clap::Args)]
pub struct Args {
    /// Variant, at its published widths.
    #[arg(short, long, value_name = "VARIANT", value_parser = args::variant_parser())]
    model: &'static Variant,
    /// Number of classes.
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    classes: u32,
    /// The same seed, variant, classes and scheme give the same file.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// kaiming as torchvision, pytorch's default uniform, or the paper's with its unit biases.
    #[arg(long, value_enum, default_value = "kaiming")]
    scheme: SchemeArg,
    /// The .safetensors file to write.
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
}

#[derive(Clone, Copy, ValueEnum)]
enum SchemeArg {
    Kaiming,
    Pytorch,
    Paper,
}

pub fn run(args: &Args) -> Result<Outcome> {
    require_safetensors(&args.output)?;
    let network = Network::published(args.model, args.classes as usize)?;
    let scheme = match args.scheme {
        SchemeArg::Kaiming => Scheme::Kaiming,
        SchemeArg::Pytorch => Scheme::Pytorch,
        SchemeArg::Paper => Scheme::Paper,
    };
    let tensors = draw(&network, scheme, args.seed).into_iter().flat_map(|(parameter, weight, bias)| {
        let (weight_name, bias_name) = (parameter.weight(), parameter.bias());
        let bias = Tensor::from_f32(vec![bias.len()], &bias);
        [(weight_name, Tensor::from_f32(parameter.weight_shape, &weight)), (bias_name, bias)]
    });
    let checkpoint = Checkpoint {
        path: args.output.clone(),
        tensors: tensors.collect(),
        variant: Some(args.model.name.into()),
        labels: None,
        metadata: Default::default(),
    };
    checkpoint.save_safetensors(&args.output)?;
    note(&format!(
        "wrote {}: {}, {} classes, seed {}",
        args.output.display(),
        args.model.name,
        args.classes,
        args.seed
    ));
    Ok(Outcome::Done)
}

/// Refuses an output whose name promises another format than the one written.
pub fn require_safetensors(path: &std::path::Path) -> Result<()> {
    match path.extension() {
        Some(extension) if extension == "safetensors" => Ok(()),
        _ => Err(Error::Usage(format!("{}: the file written is safetensors; end its name so", path.display()))),
    }
}
