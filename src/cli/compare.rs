//! `alexnet compare`: layouts of one network against each other, in one interleaved run.

mod equal;
mod layout;
mod report;
mod rounds;
mod table;
mod towers;

use std::time::Duration;

use alexnet::net::Variant;
use alexnet::record::{Compare, CompareResult, Machine, Record, Subject};
use alexnet::weights::seeded;
use alexnet::{Device, Error, Fc, Model, Pixels, Precision, Result, Score};

use super::args::{DeviceArgs, ModelArgs, precision_parser, seconds};
use super::outputs::Outputs;
use super::{Outcome, note};
use layout::Layout;
use rounds::Contender;

#[derive(clap::Args)]
pub struct Args {
    /// Layouts, the first of which is what the others are compared with; one named twice shows how far chance goes [default:
    /// those that the device can run].
    #[arg(long, value_name = "LAYOUT,...", value_delimiter = ',', value_enum)]
    layouts: Vec<Layout>,
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    device: DeviceArgs,
    /// What to compute in.
    #[arg(long, value_name = "TYPE", default_value = "float32", value_parser = precision_parser())]
    precision: Precision,
    /// Batch sizes, each compared by itself.
    #[arg(short, long, value_name = "N,...", value_delimiter = ',', default_value = "1,8,32", value_parser = clap::value_parser!(u32).range(1..=65536))]
    batch_size: Vec<u32>,
    /// Seconds that a layout is measured at least, for each batch size.
    #[arg(long, value_name = "SECONDS", default_value = "3", value_parser = seconds)]
    duration: Duration,
    /// Of the pictures, which are drawn at random.
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    #[command(flatten)]
    outputs: Outputs,
}

/// A model of every layout, all with the same weights.
struct Loaded {
    models: Vec<(Layout, Model)>,
    on_gpu: bool,
    /// The weights' name.
    checkpoint: String,
}

pub fn run(args: &Args) -> Result<Outcome> {
    args.device.limit_threads()?;
    args.check()?;
    args.outputs.check()?;
    let Loaded { models, on_gpu, checkpoint } = args.load()?;
    let model = &models[0].1;
    let machine = Machine::of(model);
    let size = model.network().input_size;
    let fill = |pixels: &mut Pixels| seeded::pictures(args.seed, size, pixels);
    let batches: Vec<usize> = args.batch_size.iter().map(|&batch| batch as usize).collect();
    let mut logits_compared = 0;
    for &batch in &batches {
        logits_compared += equal::check(&models, batch, fill)?;
    }
    note(&format!("{logits_compared} logits of each layout are equal; measuring"));
    let mut results = vec![];
    for &batch in &batches {
        results.extend(measure(&models, batch, args.duration, fill)?);
    }
    let fc = on_gpu.then(|| Fc::Own.name().into()); // of every layout
    let subject = Subject { fc, ..args.device.subject(model, &checkpoint) };
    let compare = Compare {
        machine,
        subject,
        precision: args.precision.name().into(),
        seed: args.seed,
        duration_s: args.duration.as_secs_f64(),
        layouts: models.iter().map(|(layout, model)| report::row(*layout, model, on_gpu)).collect(),
        equal: true,
        logits_compared,
        notes: report::notes(on_gpu),
        results,
    };
    args.outputs.write(&[Record::Compare(compare.clone())], || table::table(&compare), || table::csv(&compare))?;
    Ok(Outcome::Done)
}

/// All layouts at one batch size, in the order of `models`.
fn measure(
    models: &[(Layout, Model)],
    batch: usize,
    duration: Duration,
    fill: impl Fn(&mut Pixels),
) -> Result<Vec<CompareResult>> {
    let filled = |model: &Model| {
        let mut pixels = model.pixels(batch)?;
        fill(&mut pixels);
        Ok(pixels)
    };
    let contender = |(_, model): &(Layout, Model)| {
        let pipeline = model.pipeline(batch, 1, Score::Prob)?;
        let pixels = (0..pipeline.depth()).map(|_| filled(model)).collect::<Result<_>>()?;
        Contender::new(pipeline, pixels, batch)
    };
    let rates = {
        let mut contenders = models.iter().map(contender).collect::<Result<Vec<_>>>()?;
        rounds::measure(&mut contenders, duration)?
    }; // The pipelines' memory is free again.
    let sessions = models.iter().map(|(_, model)| model.session(batch, &[]));
    let timelines = towers::measure(&mut sessions.collect::<Result<Vec<_>>>()?, &filled(&models[0].1)?, duration)?;
    // Figures of what is left would be those of another layout.
    for (layout, model) in models {
        if let Some(reason) = model.given_up().first() {
            let name = layout.name();
            return Err(Error::DeviceLost(format!("{reason}; {name} cannot be measured without it, run it again")));
        }
    }
    let baseline = rates[0].rounds.clone();
    let mut measurements = vec![];
    for (index, ((rates, timeline), (layout, model))) in rates.into_iter().zip(timelines).zip(models).enumerate() {
        let baseline = (index > 0).then_some(&baseline[..]);
        let memory = model.holdings(batch)?;
        measurements.push(report::result(*layout, batch, rates, baseline, timeline, memory));
    }
    Ok(measurements)
}

impl Args {
    /// Refuses options that a comparison sets by itself, and layouts that the device cannot run.
    fn check(&self) -> Result<()> {
        if let Some(split) = self.device.split {
            let name = split.name();
            return Err(Error::Usage(format!("compare takes its splits from --layouts: say --layouts single,{name}")));
        }
        if self.device.fc == Some(Fc::CublasLt) {
            return Err(Error::Usage(
                "compare needs --fc own: cuBLASLt sums in another order for half a layer, and results must be equal bit for bit"
                    .into(),
            ));
        }
        let mut sizes = self.batch_size.clone();
        sizes.sort_unstable();
        if let Some(twice) = sizes.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(Error::Usage(format!("--batch-size names {} twice", twice[0])));
        }
        self.layouts.iter().try_for_each(|layout| layout.check(&self.device.device))
    }

    /// Without a checkpoint it is the paper's network, whose towers these layouts are about, at full width.
    fn load(&self) -> Result<Loaded> {
        let variant = match (self.model.model, &self.model.checkpoint) {
            (None, None) => Some(Variant::by_name("paper")?),
            (asked, _) => asked,
        };
        let model = ModelArgs { model: variant, ..self.model.or_seeded() };
        let checkpoint = model.open()?;
        let mut options = model.options(&self.device, self.precision, None);
        let mut layouts = self.layouts.clone();
        if layouts.is_empty() {
            layouts = Layout::of_device(&options.device);
        }
        let mut models: Vec<(Layout, Model)> = vec![];
        for layout in layouts {
            layout.check(&options.device)?;
            let model = Model::from_checkpoint(checkpoint.clone(), &layout.options(&options))?;
            if let Some(reason) = model.fallback() {
                note(&format!("no GPU is used: {reason}"));
                options.device = Device::Cpu; // the others need not look for one again
            }
            let (name, size) = (model.network().variant.name, model.network().input_size);
            note(&format!("{}: {name}, {size}x{size} input, on {}", layout.name(), model.device()));
            models.push((layout, model));
        }
        Ok(Loaded { models, on_gpu: options.device != Device::Cpu, checkpoint: model.checkpoint_name() })
    }
}
