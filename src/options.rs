//! [`Options`]: where and in what a model computes.

use std::fmt;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use crate::net::Variant;
use crate::{Error, Result};

/// How to load a model. The default takes everything from the checkpoint.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// The variant, where the checkpoint does not tell.
    pub variant: Option<&'static Variant>,
    /// Where to run.
    pub device: Device,
    /// What to compute in.
    pub precision: Precision,
    /// Logits whose bits do not depend on the batch that an image is in, at some cost in speed for small batches.
    pub deterministic: bool,
    /// What computes fully connected layers on a GPU. `None` takes cuBLASLt for more than eight images where its library is
    /// found, else this crate's own kernels; those alone with `deterministic`.
    pub fc: Option<Fc>,
    /// How the network is divided, where it is.
    pub split: Option<Split>,
    /// Side of the square input; the variant's own where `None`.
    pub input_size: Option<usize>,
    /// Threads that the CPU computes on, and lays out its weights; all of them where `None`. [`Model`](crate::Model) decodes files,
    /// and lays out a GPU's weights, on those of rayon's global pool.
    pub threads: Option<NonZeroUsize>,
    /// Longest time that a GPU may take for a batch before it is given up; a minute where `None`.
    pub patience: Option<Duration>,
    /// A file with one class name a line.
    pub labels: Option<PathBuf>,
}

/// Where a model runs.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Device {
    /// The best device there is.
    #[default]
    Auto,
    /// The CPU.
    Cpu,
    /// The CUDA devices with these numbers, each named once. Of several each computes whole batches, in turn, see
    /// [`parallel`](crate::parallel).
    Cuda(Vec<usize>),
}

/// What [`FromStr`] reads.
impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Device::Auto => f.write_str("auto"),
            Device::Cpu => f.write_str("cpu"),
            Device::Cuda(ordinals) => {
                let ordinals: Vec<String> = ordinals.iter().map(usize::to_string).collect();
                write!(f, "cuda:{}", ordinals.join(","))
            }
        }
    }
}

impl FromStr for Device {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "auto" => return Ok(Device::Auto),
            "cpu" => return Ok(Device::Cpu),
            "cuda" => return Ok(Device::Cuda(vec![0])),
            _ => (),
        }
        const KNOWN: &str = "say auto, cpu, cuda, cuda:N or cuda:N,N";
        let Some(list) = text.strip_prefix("cuda:") else {
            return Err(Error::Usage(format!("no device is called '{text}'; {KNOWN}")));
        };
        let number = |text: &str| {
            text.parse().map_err(|_| Error::Usage(format!("'{text}' in 'cuda:{list}' is no device's number; {KNOWN}")))
        };
        let ordinals = list.split(',').map(number).collect::<Result<Vec<usize>>>()?;
        check_ordinals(&ordinals)?;
        Ok(Device::Cuda(ordinals))
    }
}

/// Refuses a list of CUDA devices that is empty or names one twice.
pub(crate) fn check_ordinals(ordinals: &[usize]) -> Result<()> {
    if ordinals.is_empty() {
        return Err(Error::Usage("a list of CUDA devices that names none; cuda:0 is the first".into()));
    }
    let twice = (1..ordinals.len()).find(|&index| ordinals[..index].contains(&ordinals[index]));
    twice.map_or(Ok(()), |index| {
        Err(Error::Usage(format!("cuda:{} is named twice; each device computes batches of its own", ordinals[index])))
    })
}

/// What a model computes in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Precision {
    /// IEEE single precision.
    #[default]
    Float32,
    /// Single precision with products rounded to 10 bits: tensor cores only.
    Tf32,
    /// Half precision with single-precision sums.
    Float16,
    /// bfloat16 with single-precision sums.
    Bfloat16,
}

impl Precision {
    /// Every precision.
    pub const ALL: [Precision; 4] = [Precision::Float32, Precision::Tf32, Precision::Float16, Precision::Bfloat16];

    /// PyTorch's name for it.
    pub fn name(self) -> &'static str {
        match self {
            Precision::Float32 => "float32",
            Precision::Tf32 => "tf32",
            Precision::Float16 => "float16",
            Precision::Bfloat16 => "bfloat16",
        }
    }

    /// Bytes that an activation or a filter's value takes.
    pub fn bytes(self) -> usize {
        match self {
            Precision::Float32 | Precision::Tf32 => 4,
            Precision::Float16 | Precision::Bfloat16 => 2,
        }
    }
}

/// A network in two towers, each with half of every layer's filters, which meet where one needs what the other has: the
/// layout of the paper. Results are those of the whole network, bit for bit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Split {
    /// Two streams of one GPU; on the CPU, two groups of threads.
    TwoStream,
    /// Two GPUs.
    TwoGpu,
}

impl Split {
    /// Both.
    pub const ALL: [Split; 2] = [Split::TwoStream, Split::TwoGpu];

    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Split::TwoStream => "two-stream",
            Split::TwoGpu => "two-gpu",
        }
    }
}

/// What computes fully connected layers on a GPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fc {
    /// NVIDIA's cuBLASLt, whatever the number of images.
    CublasLt,
    /// This crate's own kernels.
    Own,
}

impl Fc {
    /// Both.
    pub const ALL: [Fc; 2] = [Fc::CublasLt, Fc::Own];

    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Fc::CublasLt => "cublaslt",
            Fc::Own => "own",
        }
    }

    /// Refuses what cannot be had together.
    pub fn check(fc: Option<Fc>, deterministic: bool) -> Result<()> {
        if fc == Some(Fc::CublasLt) && deterministic {
            return Err(Error::Usage(
                "cuBLASLt's algorithms sum in another order for another batch, so that nothing is deterministic with it; \
                 leave --deterministic out, or say --fc own"
                    .into(),
            ));
        }
        Ok(())
    }
}
