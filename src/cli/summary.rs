//! `alexnet summary`: torchinfo's table, JSON, or PyTorch's printed form.

use std::fmt::Write;

#[cfg(feature = "cuda")]
use alexnet::cuda::{Rules, explain};
use alexnet::net::{Network, Summary};
use alexnet::{Error, Result, Split};
use clap::ValueEnum;

use super::args::ModelArgs;
use super::{Outcome, print};

#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    /// Images in the batch that shapes and multiply-adds are given for.
    #[arg(short, long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    batch_size: u32,
    /// torchinfo's table, or what PyTorch's print(net) shows.
    #[arg(long, value_enum, default_value = "table")]
    format: Format,
    /// The table's figures as JSON.
    #[arg(long, conflicts_with = "format")]
    json: bool,
    #[command(flatten)]
    how: How,
}

/// How a device would compute it.
#[derive(clap::Args)]
struct How {
    /// What would compute each layer, and why: the kernels of a GPU with problem and grid, which needs no GPU, or the CPU's ways.
    #[arg(long, group = "on_device", value_name = "WHERE", num_args = 0..=1, require_equals = true, default_missing_value = EXPLAINED, conflicts_with_all = ["format", "json"])]
    explain: Option<Explained>,
    /// In two towers: on two streams of a GPU or two groups of the CPU's threads, or on two GPUs.
    #[arg(long, requires = "explain", value_name = "HOW", value_parser = super::args::split_parser())]
    split: Option<alexnet::Split>,
    #[cfg(feature = "cuda")]
    #[command(flatten)]
    gpu: Gpu,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum Explained {
    #[cfg(feature = "cuda")]
    Cuda,
    Cpu,
}

/// Without a place.
const EXPLAINED: &str = if cfg!(feature = "cuda") { "cuda" } else { "cpu" };

/// What a GPU would run.
#[cfg(feature = "cuda")]
#[derive(clap::Args)]
struct Gpu {
    /// cuda or cuda:N: the memory that the batch takes there, and the largest batch that fits.
    #[arg(long, group = "on_device", conflicts_with_all = ["format", "json"])]
    device: Option<alexnet::Device>,
    /// What it would compute in.
    #[arg(long, requires = "on_device", value_name = "TYPE", default_value = "float32", value_parser = super::args::precision_parser())]
    precision: alexnet::Precision,
    /// Multiprocessors of the GPU: 132 are an H100's.
    #[arg(long, requires = "explain", value_name = "N", default_value_t = 132, value_parser = clap::value_parser!(u32).range(1..=1024))]
    multiprocessors: u32,
    /// One order of sums for every batch.
    #[arg(long, requires = "on_device")]
    deterministic: bool,
    /// What would compute fully connected layers [default: cublaslt for more than 8 images where its library is found, else
    /// own].
    #[arg(long, requires = "on_device", value_name = "WHAT", value_parser = super::args::fc_parser())]
    fc: Option<alexnet::Fc>,
}

#[derive(Clone, Copy, ValueEnum)]
enum Format {
    Table,
    Torch,
}

pub fn run(args: &Args) -> Result<Outcome> {
    let network = network(&args.model)?;
    if let Some(text) = args.how.describe(&network, args.batch_size as usize)? {
        print(&text)?;
        return Ok(Outcome::Done);
    }
    let summary = || network.summary(args.batch_size as usize);
    let text = match args.format {
        _ if args.json => {
            let json = serde_json::to_string_pretty(&summary());
            json.expect("a summary has only strings and numbers") + "\n"
        }
        Format::Table => table(&summary()),
        Format::Torch => network.torch_form()? + "\n",
    };
    print(&text)?;
    Ok(Outcome::Done)
}

impl How {
    /// What is asked for, if anything.
    #[cfg_attr(
        not(feature = "cuda"),
        expect(unused_variables, reason = "a GPU alone does another thing for another batch")
    )]
    fn describe(&self, network: &Network, images: usize) -> Result<Option<String>> {
        match self.explain {
            Some(Explained::Cpu) if self.split == Some(Split::TwoGpu) => {
                Err(Error::Usage("the CPU is not two GPUs; say --split two-stream".into()))
            }
            Some(Explained::Cpu) => alexnet::cpu::explain(network, self.split.is_some()).map(Some),
            #[cfg(feature = "cuda")]
            Some(Explained::Cuda) => self.gpu.explain(network, images, self.split).map(Some),
            #[cfg(feature = "cuda")]
            None => self.gpu.describe(network, images),
            #[cfg(not(feature = "cuda"))]
            None => Ok(None),
        }
    }
}

#[cfg(feature = "cuda")]
impl Gpu {
    /// The kernels that a GPU would run.
    fn explain(&self, network: &Network, images: usize, split: Option<Split>) -> Result<String> {
        let &Gpu { precision, deterministic, fc, multiprocessors, .. } = self;
        alexnet::Fc::check(fc, deterministic)?;
        let rules = Rules { precision, multiprocessors: multiprocessors as usize, deterministic, fc };
        explain(network, images, &rules, split)
    }

    /// The memory that the batch takes on the device that is asked for, if one is.
    fn describe(&self, network: &Network, images: usize) -> Result<Option<String>> {
        use alexnet::Device;
        use alexnet::cuda::{CudaDevice, Footprint};

        let &Gpu { precision, deterministic, fc, .. } = self;
        alexnet::Fc::check(fc, deterministic)?;
        let ordinal = match &self.device {
            None => return Ok(None),
            Some(Device::Cuda(ordinals)) if ordinals.len() == 1 => ordinals[0],
            Some(_) => {
                return Err(Error::Usage("summary tells the memory of one GPU: say --device cuda or cuda:N".into()));
            }
        };
        let device = CudaDevice::open(ordinal)?;
        let rules = Rules { precision, multiprocessors: device.multiprocessors(), deterministic, fc };
        let Footprint { weights, arena, without_reuse } = Footprint::of(network, images, &rules)?;
        let memory = device.memory()?;
        let largest = Footprint::largest_batch(network, MOST_IMAGES, &rules, memory)?;
        let megabytes = |bytes: usize| format!("{:.1} MB", bytes as f64 / 1e6);
        Ok(Some(format!(
            "{device}, {}\nfree: {} of {}\nweights: {}\ninputs and layers, batch {images}: {} ({} without reuse)\n\
             largest batch that fits: {largest}\n",
            precision.name(),
            megabytes(memory.0),
            megabytes(memory.1),
            megabytes(weights),
            megabytes(arena),
            megabytes(without_reuse),
        )))
    }
}

/// Largest batch that predict takes.
#[cfg(feature = "cuda")]
const MOST_IMAGES: usize = 65536;

/// The checkpoint's network, else the variant at its published widths, else the demo's.
fn network(args: &ModelArgs) -> Result<Network> {
    if let (Some(variant), None) = (args.model, &args.checkpoint) {
        return Network::with_widths(variant, &variant.widths(), args.input_size.unwrap_or(variant.input_size));
    }
    let checkpoint = args.open()?;
    let variant = checkpoint.choose_variant(args.model)?;
    checkpoint.network(variant, args.input_size.unwrap_or(variant.input_size))
}

fn table(summary: &Summary) -> String {
    let mut text = String::new();
    let line = |text: &mut String, fill: char| writeln!(text, "{}", fill.to_string().repeat(86)).expect(IN_MEMORY);
    let row = |text: &mut String, cells: [&str; 4]| {
        writeln!(text, "{:<30}{:<22}{:>14}{:>20}", cells[0], cells[1], cells[2], cells[3]).expect(IN_MEMORY);
    };
    line(&mut text, '=');
    row(&mut text, ["Layer (type)", "Output Shape", "Param #", "Mult-Adds"]);
    line(&mut text, '=');
    for layer in &summary.layers {
        let count = |n: usize| if n == 0 { "--".to_string() } else { thousands(n) };
        let name = format!("{} ({})", layer.name, layer.kind);
        let shape = format!("{:?}", layer.output_shape);
        row(&mut text, [&name, &shape, &count(layer.params), &count(layer.mult_adds)]);
    }
    line(&mut text, '=');
    let megabytes = |bytes: usize| format!("{:.2}", bytes as f64 / 1e6);
    let total = summary.input_bytes + summary.forward_backward_bytes + summary.params_bytes;
    for (what, value) in [
        ("Variant", summary.variant.to_string()),
        ("Input shape", format!("{:?}", summary.input_shape)),
        ("Total params", thousands(summary.total_params)),
        ("Total mult-adds", thousands(summary.total_mult_adds)),
        ("Input size (MB)", megabytes(summary.input_bytes)),
        ("Forward/backward pass size (MB)", megabytes(summary.forward_backward_bytes)),
        ("Params size (MB)", megabytes(summary.params_bytes)),
        ("Estimated total size (MB)", megabytes(total)),
    ] {
        writeln!(text, "{what}: {value}").expect(IN_MEMORY);
    }
    line(&mut text, '=');
    text
}

const IN_MEMORY: &str = "writing to a String";

/// 61100840 as 61,100,840.
fn thousands(n: usize) -> String {
    let digits = n.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}
