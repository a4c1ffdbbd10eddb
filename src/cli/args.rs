//! Arguments that several commands share.

use std::ffi::OsString;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::Duration;

use alexnet::image::{DecodeOptions, Decoder, Exif};
use alexnet::net::{VARIANTS, Variant};
use alexnet::record::Subject;
use alexnet::weights::Checkpoint;
use alexnet::{Device, Error, Fc, Model, Options, Precision, Result, Split, demo_checkpoint, open_checkpoint};
use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args, ValueEnum};

use super::note;

/// Which network, from which file.
#[derive(Args)]
pub struct ModelArgs {
    /// Variant; the checkpoint's metadata or its tensors tell where it is left out.
    #[arg(short, long, value_name = "VARIANT", value_parser = variant_parser())]
    pub model: Option<&'static Variant>,
    /// Weights: a .safetensors or .pth file, IMAGENET1K_V1 (torchvision's, from PyTorch's cache) or seed:N.
    #[arg(long, alias = "weights", value_name = "FILE")]
    pub checkpoint: Option<PathBuf>,
    /// Side of the square input, 63 to 1024, for torchvision [default: the variant's own].
    #[arg(long, value_name = "N")]
    pub input_size: Option<usize>,
}

/// Where and how to run it, in whatever precision.
#[derive(Args, Clone)]
pub struct DeviceArgs {
    /// auto, cpu, cuda, cuda:N, or cuda:N,N,..: several GPUs, which take batches in turn.
    #[arg(long, default_value = "auto")]
    pub device: Device,
    /// On a GPU, scores whose bits do not depend on the batch that a picture is in; on the CPU they never do.
    #[arg(long)]
    pub deterministic: bool,
    /// Longest time that a GPU may take for a batch before the run is given up.
    #[arg(long, value_name = "SECONDS", default_value = "60", value_parser = seconds)]
    pub patience: Duration,
    /// Fully connected layers on a GPU: NVIDIA's cuBLASLt, or kernels of this program [default: cublaslt for more than 8
    /// images where its library is found, else own].
    #[arg(long, value_name = "WHAT", value_parser = fc_parser())]
    pub fc: Option<Fc>,
    /// Divide the network between two streams of a GPU (groups of threads of the CPU), or between two GPUs.
    #[arg(long, value_name = "HOW", value_parser = split_parser())]
    pub split: Option<Split>,
    /// Threads that decode, read weights and, on the CPU, compute, by turns: as many are busy at once [default: all].
    #[arg(short = 'j', long, value_name = "N", value_parser = workers_parser())]
    pub workers: Option<NonZeroUsize>,
}

/// How pictures are decoded.
#[derive(Args)]
pub struct DecodeArgs {
    /// EXIF orientation: ignored, as torchvision does, or applied.
    #[arg(long, value_enum, default_value = "ignore")]
    exif: ExifArg,
    /// JPEG decoder: mozjpeg has PyTorch's pixels; fast is pure Rust and up to 16 levels off where colour is subsampled,
    /// up to 4 elsewhere, and misses data that is cut out of a file before its end marker.
    #[arg(long, value_enum, default_value = "mozjpeg")]
    decoder: DecoderArg,
}

#[derive(Clone, Copy, ValueEnum)]
enum ExifArg {
    Ignore,
    Apply,
}

#[derive(Clone, Copy, ValueEnum)]
enum DecoderArg {
    Mozjpeg,
    Fast,
}

impl DeviceArgs {
    /// What a record says was run: `model` with the weights called `checkpoint`, and these switches.
    pub fn subject(&self, model: &Model, checkpoint: &str) -> Subject {
        Subject {
            split: self.split.map(|split| split.name().into()),
            fc: self.fc.map(|fc| fc.name().into()),
            deterministic: self.deterministic,
            ..Subject::of(model.network(), checkpoint, threads(self.workers))
        }
    }

    /// Has files decoded and weights read on as many threads as well: rayon's own, which the first call starts.
    ///
    /// # Errors
    /// [`Error::Device`] where they cannot be started.
    pub fn limit_threads(&self) -> Result<()> {
        static STARTED: OnceLock<Result<(), String>> = OnceLock::new();
        let count = threads(self.workers);
        let start =
            || rayon::ThreadPoolBuilder::new().num_threads(count).build_global().map_err(|error| error.to_string());
        let started = STARTED.get_or_init(start).clone();
        started.map_err(|error| Error::Device(format!("cannot start {count} threads: {error}; lower -j")))
    }

    /// The same as arguments of another process.
    pub fn arguments(&self) -> Vec<OsString> {
        let patience = self.patience.as_secs_f64().to_string();
        let mut arguments = vec![("--device", self.device.to_string()), ("--patience", patience)];
        arguments.extend(self.fc.map(|fc| ("--fc", fc.name().into())));
        arguments.extend(self.split.map(|split| ("--split", split.name().into())));
        arguments.extend(self.workers.map(|workers| ("--workers", workers.to_string())));
        let arguments = arguments.into_iter().flat_map(|(name, value)| [name.into(), value.into()]);
        arguments.chain(self.deterministic.then(|| "--deterministic".into())).collect()
    }
}

impl DecodeArgs {
    /// The choice by its name.
    pub fn exif(&self) -> String {
        name(&self.exif)
    }

    /// The choice by its name.
    pub fn decoder(&self) -> String {
        name(&self.decoder)
    }

    pub fn options(&self) -> DecodeOptions {
        DecodeOptions {
            exif: match self.exif {
                ExifArg::Ignore => Exif::Ignore,
                ExifArg::Apply => Exif::Apply,
            },
            decoder: match self.decoder {
                DecoderArg::Mozjpeg => Decoder::Mozjpeg,
                DecoderArg::Fast => Decoder::Fast,
            },
        }
    }
}

fn name(choice: &impl ValueEnum) -> String {
    choice.to_possible_value().expect("no choice is hidden").get_name().into()
}

impl ModelArgs {
    /// The same as arguments of another process.
    pub fn arguments(&self) -> Vec<OsString> {
        let mut arguments: Vec<(&str, OsString)> = vec![];
        arguments.extend(self.model.map(|variant| ("--model", variant.name.into())));
        arguments.extend(self.checkpoint.as_ref().map(|name| ("--checkpoint", name.into())));
        arguments.extend(self.input_size.map(|size| ("--input-size", size.to_string().into())));
        arguments.into_iter().flat_map(|(name, value)| [name.into(), value]).collect()
    }

    /// These, with weights drawn from a seed where no checkpoint is asked for: measurements are of full-size networks.
    pub fn or_seeded(&self) -> ModelArgs {
        let checkpoint = self.checkpoint.clone().unwrap_or_else(|| "seed:0".into());
        ModelArgs { checkpoint: Some(checkpoint), ..*self }
    }

    /// The checkpoint's name as it was given; empty where none was.
    pub fn checkpoint_name(&self) -> String {
        self.checkpoint.as_deref().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
    }

    /// The checkpoint asked for, else the demo, which is said on stderr.
    ///
    /// # Errors
    /// Usage where the demo is not of the variant asked for.
    pub fn open(&self) -> Result<Checkpoint> {
        match &self.checkpoint {
            Some(name) => open_checkpoint(name, self.model),
            None => self.demo(),
        }
    }

    /// What to load a model with.
    pub fn options(&self, device: &DeviceArgs, precision: Precision, labels: Option<PathBuf>) -> Options {
        Options {
            variant: self.model,
            device: device.device.clone(),
            precision,
            deterministic: device.deterministic,
            fc: device.fc,
            split: device.split,
            input_size: self.input_size,
            threads: device.workers,
            patience: Some(device.patience),
            labels,
        }
    }

    /// The model on the device, and a line about both on stderr.
    pub fn load(&self, device: &DeviceArgs, precision: Precision, labels: Option<PathBuf>) -> Result<Model> {
        let options = self.options(device, precision, labels);
        let model = match &self.checkpoint {
            Some(name) => Model::load(name, &options)?,
            None => Model::from_checkpoint(self.demo()?, &options)?,
        };
        if let Some(reason) = model.fallback() {
            note(&format!("no GPU is used: {reason}"));
        }
        let network = model.network();
        let (name, size, classes) = (network.variant.name, network.input_size, network.classes());
        note(&format!("{name}, {size}x{size} input, {classes} classes, on {}", model.device()));
        Ok(model)
    }

    fn demo(&self) -> Result<Checkpoint> {
        let demo = demo_checkpoint();
        if let Some(variant) = self.model.filter(|v| Some(v.name) != demo.variant.as_deref()) {
            let name = variant.name;
            return Err(Error::Usage(format!(
                "{name} needs weights: say --checkpoint FILE, or --checkpoint seed:0 for random ones"
            )));
        }
        note(
            "no --checkpoint: using the built-in demo, which names ten kinds of drawn shapes; \
             for ImageNet's classes say --checkpoint IMAGENET1K_V1",
        );
        Ok(demo)
    }
}

/// As many threads as asked for, else all.
pub fn threads(workers: Option<NonZeroUsize>) -> usize {
    workers.or(std::thread::available_parallelism().ok()).map_or(1, NonZeroUsize::get)
}

/// -j: more threads than any machine has cores only cost memory.
pub fn workers_parser() -> impl TypedValueParser<Value = NonZeroUsize> {
    clap::value_parser!(u16).range(1..=1024).map(|n| NonZeroUsize::new(n.into()).expect("the range begins at 1"))
}

/// A positive number of seconds.
pub fn seconds(text: &str) -> std::result::Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "not a number of seconds".to_string())?;
    if seconds <= 0.0 {
        return Err("a duration must be positive".into());
    }
    Duration::try_from_secs_f64(seconds).map_err(|e| e.to_string())
}

pub fn variant_parser() -> impl TypedValueParser<Value = &'static Variant> {
    PossibleValuesParser::new(VARIANTS.iter().map(|v| v.name)).try_map(|name| Variant::by_name(&name))
}

pub fn precision_parser() -> impl TypedValueParser<Value = Precision> {
    PossibleValuesParser::new(Precision::ALL.map(Precision::name)).map(|text| {
        let found = Precision::ALL.into_iter().find(|precision| precision.name() == text);
        found.expect("clap lets only these names through")
    })
}

pub fn fc_parser() -> impl TypedValueParser<Value = Fc> {
    PossibleValuesParser::new(Fc::ALL.map(Fc::name)).map(|text| {
        let found = Fc::ALL.into_iter().find(|fc| fc.name() == text);
        found.expect("clap lets only these names through")
    })
}

pub fn split_parser() -> impl TypedValueParser<Value = Split> {
    PossibleValuesParser::new(Split::ALL.map(Split::name)).map(|text| {
        let found = Split::ALL.into_iter().find(|split| split.name() == text);
        found.expect("clap lets only these names through")
    })
}
