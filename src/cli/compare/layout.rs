//! The layouts of one network, and which of them a device can run.

use alexnet::{Device, Error, Fc, Options, Result, Split};
use clap::ValueEnum;

/// How a network lies on its devices.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Layout {
    /// The whole network on one device; on a GPU both groups of a convolution are one kernel.
    Single,
    /// Two towers on one device, a stream each; on the CPU, half of the threads each.
    TwoStream,
    /// Two towers on two GPUs.
    TwoGpu,
    /// The whole network on each of several GPUs, which share the pictures.
    DataParallel,
}

impl Layout {
    /// Its name on the command line and in reports.
    pub fn name(self) -> &'static str {
        match self {
            Layout::Single => "single",
            Layout::TwoStream => "two-stream",
            Layout::TwoGpu => "two-gpu",
            Layout::DataParallel => "data-parallel",
        }
    }

    /// What it is, in a line.
    pub fn meaning(self, on_gpu: bool) -> &'static str {
        match (self, on_gpu) {
            (Layout::Single, true) => {
                "the whole network on one GPU, fused groups: a grouped convolution is one kernel, the groups in its tile index"
            }
            (Layout::Single, false) => "the whole network on all threads of the CPU",
            (Layout::TwoStream, true) => "two towers on one GPU, a stream each",
            (Layout::TwoStream, false) => "two towers, half of the CPU's threads each",
            (Layout::TwoGpu, _) => "two towers, a GPU each",
            (Layout::DataParallel, _) => {
                "the whole network on each GPU, which share the pictures; layers are the first one's"
            }
        }
    }

    /// Those that `device` can run.
    pub fn of_device(device: &Device) -> Vec<Layout> {
        Self::value_variants().iter().copied().filter(|layout| layout.check(device).is_ok()).collect()
    }

    /// Refuses a layout for which `device` has too few devices.
    ///
    /// # Errors
    /// [`Error::Usage`] with what the layout needs.
    pub fn check(self, device: &Device) -> Result<()> {
        let several = matches!(device, Device::Cuda(ordinals) if ordinals.len() > 1);
        let needs = match self {
            Layout::Single | Layout::TwoStream => return Ok(()),
            _ if several => return Ok(()),
            Layout::TwoGpu => "two GPUs",
            Layout::DataParallel => "several GPUs",
        };
        let name = self.name();
        let lacking = match device {
            Device::Cpu => "the CPU is one device",
            Device::Auto => "auto takes one device",
            Device::Cuda(_) => "one is named",
        };
        Err(Error::Usage(format!(
            "{name} needs {needs}, and {lacking}; name them (--device cuda:0,1), or leave {name} out of --layouts"
        )))
    }

    /// `options` for a model in this layout, on as many of the devices as it takes. Fully connected layers are this crate's own
    /// in each: cuBLASLt's sums depend on a layer's width, and half a layer is half as wide.
    pub fn options(self, options: &Options) -> Options {
        let split = match self {
            Layout::Single | Layout::DataParallel => None,
            Layout::TwoStream => Some(Split::TwoStream),
            Layout::TwoGpu => Some(Split::TwoGpu),
        };
        let mut options = Options { split, fc: Some(Fc::Own), ..options.clone() };
        if let Device::Cuda(ordinals) = &mut options.device {
            ordinals.truncate(match self {
                Layout::Single | Layout::TwoStream => 1,
                Layout::TwoGpu => 2,
                Layout::DataParallel => usize::MAX,
            });
        }
        options
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_alone_runs_two_layouts() {
        for device in &[Device::Cpu, Device::Cuda(vec![1])] {
            assert_eq!(Layout::of_device(device), [Layout::Single, Layout::TwoStream]);
            for layout in [Layout::TwoGpu, Layout::DataParallel] {
                let refusal = layout.check(device).unwrap_err().to_string();
                assert!(refusal.contains(layout.name()) && refusal.contains("--device cuda:0,1"), "{refusal}");
            }
        }
    }

    #[test]
    fn layouts_take_the_first_of_several_devices() {
        let options = Options { device: Device::Cuda(vec![2, 0, 1]), ..Options::default() };
        assert_eq!(Layout::of_device(&options.device), Layout::value_variants());
        let taken = |layout: Layout| layout.options(&options).device;
        assert_eq!(taken(Layout::TwoStream), Device::Cuda(vec![2]));
        assert_eq!(taken(Layout::TwoGpu), Device::Cuda(vec![2, 0]));
        assert_eq!(taken(Layout::DataParallel), options.device);
    }
}
