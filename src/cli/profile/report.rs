//! From runs to the record: each step's times, what it must do, and what the device could.

use alexnet::backend::StepAsRun;
use alexnet::plan::{Step, StepKind};
use alexnet::record::{Bound, Ceilings, Machine, Profile, ProfileStep, ProfileTrack};
use alexnet::roofline::Demand;
use alexnet::statistics::Spread;
use alexnet::{Error, Model, Precision, Result, Span, Timeline, Work};

use super::Args;
use super::measure::{Measured, ms};

/// How far the steps' sum may be from a run at full speed before that is said.
const TOLERANCE: f64 = 0.05;

/// The whole record, with the ceilings measured now, on `machine` as it was when the measuring began.
///
/// # Errors
/// Those of the device; [`Error::DeviceLost`] for timelines that differ from the plan.
pub fn profile(model: &Model, machine: Machine, args: &Args, checkpoint: &str, measured: &Measured) -> Result<Profile> {
    let batch = args.batch_size as usize;
    let ceilings = model.ceilings()?;
    let context = Context { model, batch, precision: args.precision, ceilings: &ceilings };
    let tracks = context.tracks(&measured.timelines, &model.steps(batch)?)?;
    let run_ms = Spread::of(measured.run_ms.clone());
    let longest = tracks.iter().map(track_ms).fold(0.0, f64::max);
    let mut profile = Profile {
        machine,
        subject: args.device.subject(model, checkpoint),
        precision: args.precision.name().into(),
        batch_size: batch,
        tracks,
        runs: measured.timelines.len(),
        stepwise_ms: Spread::of(measured.timelines.iter().map(|timeline| ms(timeline.total())).collect()),
        steps_over_run: longest / run_ms.median,
        run_ms,
        ceilings,
        notes: vec![],
    };
    profile.notes = notes(&profile, measured.on_gpu);
    profile.notes.extend(warnings(&profile));
    Ok(profile)
}

/// The sum of a track's medians.
fn track_ms(track: &ProfileTrack) -> f64 {
    track.steps.iter().map(|step| step.time_ms.median).sum()
}

struct Context<'a> {
    model: &'a Model,
    batch: usize,
    precision: Precision,
    ceilings: &'a Ceilings,
}

impl Context<'_> {
    fn tracks(&self, timelines: &[Timeline], steps: &[Vec<StepAsRun>]) -> Result<Vec<ProfileTrack>> {
        let first = &timelines[0];
        let works = |timeline: &Timeline| -> Vec<Vec<Work>> {
            timeline.tracks.iter().map(|track| track.spans.iter().map(|span| span.work.clone()).collect()).collect()
        };
        let expected = works(first);
        if timelines.iter().any(|timeline| works(timeline) != expected) || first.tracks.len() != steps.len() {
            return Err(mistake("runs of one plan had other steps"));
        }
        let tracks = first.tracks.iter().zip(steps).enumerate().map(|(number, (track, steps))| {
            let steps = track.spans.iter().enumerate().map(|(index, span)| {
                let times = timelines.iter().map(|timeline| {
                    let Span { begin, end, .. } = timeline.tracks[number].spans[index];
                    ms(end.saturating_sub(begin))
                });
                self.step(&span.work, steps, Spread::of(times.collect()))
            });
            let mut track = ProfileTrack { place: track.place.clone(), steps: steps.collect::<Result<_>>()? };
            let total = track_ms(&track);
            track.steps.iter_mut().for_each(|step| step.percentage = per(100.0 * step.time_ms.median, total));
            Ok(track)
        });
        tracks.collect()
    }

    /// The CPU computes in float32; in half precision it stores no more than weights of fully connected layers.
    fn demand(&self, step: &Step) -> Demand {
        let network = self.model.network();
        if !self.model.gpus().is_empty() {
            return Demand::of(network, step, self.batch, self.precision);
        }
        let mut demand = Demand::of(network, step, self.batch, Precision::Float32);
        if self.precision == Precision::Float16 && matches!(step.kind, StepKind::Linear { .. }) {
            demand.bytes -= 2 * (demand.params - step.output.c);
        }
        demand
    }

    /// Shares come later.
    fn step(&self, work: &Work, steps: &[StepAsRun], time_ms: Spread) -> Result<ProfileStep> {
        let find = |is: &dyn Fn(&StepAsRun) -> bool| {
            steps.iter().find(|step| is(step)).ok_or_else(|| mistake(&format!("{work:?} is no step of the plan")))
        };
        let shape = |shape: alexnet::net::Shape| [self.batch, shape.h, shape.w, shape.c];
        let (name, kind, kernel, shapes, demand, multiplications) = match work {
            Work::Layers(layers) => {
                let StepAsRun { step, kernel, multiplications } = find(&|as_run| as_run.step.layers == *layers)?;
                let demand = self.demand(step);
                let shapes = [step.input, step.output].map(shape);
                (step.name(), step.kind.name(), kernel.clone(), shapes, demand, *multiplications)
            }
            &Work::Join { layer, bytes } => {
                let step = &find(&|as_run| as_run.step.layers.contains(&layer))?.step;
                let demand = Demand { params: 0, mult_adds: 0, bytes };
                let kernel = "waits for the other tower's part".into();
                (format!("join {layer}"), "join", kernel, [step.input; 2].map(shape), demand, None)
            }
        };
        let mult_adds = multiplications.unwrap_or(demand.mult_adds);
        let (least, bound) = Demand { mult_adds, ..demand }.least_seconds(self.ceilings);
        let seconds = time_ms.median / 1e3;
        Ok(ProfileStep {
            name,
            kind: kind.into(),
            kernel,
            input_shape: shapes[0],
            output_shape: shapes[1],
            params: demand.params,
            mult_adds: demand.mult_adds,
            multiplications,
            flops: demand.flops(),
            bytes: demand.bytes as f64,
            flops_per_sec: per(demand.flops(), seconds),
            bytes_per_sec: per(demand.bytes as f64, seconds),
            roofline_percentage: per(100.0 * least, seconds),
            time_ms,
            percentage: 0.0,
            bound,
        })
    }
}

/// 0 where the clock saw no time.
fn per(amount: f64, time: f64) -> f64 {
    if time > 0.0 { amount / time } else { 0.0 }
}

fn mistake(what: &str) -> Error {
    Error::DeviceLost(format!("{what}; this is a mistake, report it"))
}

/// What the figures mean.
fn notes(profile: &Profile, on_gpu: bool) -> Vec<String> {
    let mut notes = vec![
        "Operations are two for each multiply-add of the layers with weights; bytes are those of input, filter, bias and output, \
         each once. Rates are at the median time. The roofline is the least time that the ceilings allow, over the median time."
            .to_string(),
        "The ceilings were measured in this run: the best of several large products and of several large copies, which caches \
         do not hold; a step that works in a cache may exceed the copy."
            .to_string(),
    ];
    if !on_gpu {
        notes.push(
            "A convolution by Winograd's filtering is held to the multiplications that this takes; its rate is still of the \
             network's operations, and may exceed the ceiling."
                .into(),
        );
    }
    if on_gpu {
        notes.push(
            "Steps are of runs kernel by kernel on pixels that the device has; for small batches they contain the time that the \
             host takes to launch. The whole run is the time on the device of a batch through the pipeline, from the first kernel \
             to the classes: one CUDA graph, but for a split between two GPUs."
                .into(),
        );
    }
    if profile.subject.split.is_some() {
        notes.push(
            "The towers' percentages are of ceilings of the whole device, which towers on one device share. A join lasts from \
             the time that a tower could go on to the time that it has the other's part."
                .into(),
        );
    }
    notes
}

/// What is out of the ordinary.
pub fn warnings(profile: &Profile) -> Vec<String> {
    let mut warnings = vec![];
    let off = profile.steps_over_run - 1.0;
    if off.abs() > TOLERANCE {
        warnings.push(format!(
            "the steps' medians add up to {:.1} % {} than a run at full speed takes",
            100.0 * off.abs(),
            if off > 0.0 { "more" } else { "less" }
        ));
    }
    let above = |step: &&ProfileStep| step.roofline_percentage > 100.0 && step.bound == Bound::Compute;
    if let Some(step) = profile.tracks.iter().flat_map(|track| &track.steps).find(above) {
        warnings.push(format!(
            "{} computes faster than the product that the ceiling is of: the machine had other things to do, run it again",
            step.name
        ));
    }
    warnings
}

#[cfg(test)]
pub mod tests {
    use alexnet::net::{Network, Variant};
    use alexnet::record::Subject;
    use serde_json::Value;

    use super::*;
    use crate::cli::samples::{self, names};

    /// Two tracks of two steps, the first of which takes 1.5 ms of the 3 ms that make it 10 % longer than a run.
    pub fn record() -> Profile {
        let step = |name: &str, kind: &str| ProfileStep {
            name: name.into(),
            kind: kind.into(),
            kernel: "conv_f16_64x64, 1 x 2 x 3 blocks of 128 threads, GEMM_K in 2 parts, then reduce_splits_f16".into(),
            input_shape: [8, 227, 227, 3],
            output_shape: [8, 55, 55, 96],
            params: 34_944,
            mult_adds: 1000,
            multiplications: None,
            flops: 2000.0,
            bytes: 4000.0,
            time_ms: Spread::of(vec![1.0, 1.5, 2.0]),
            percentage: 50.0,
            flops_per_sec: 1e9,
            bytes_per_sec: 2e9,
            roofline_percentage: 12.5,
            bound: Bound::Compute,
        };
        let track = |number: usize, steps: [ProfileStep; 2]| ProfileTrack {
            place: format!("tower {number} on a, \"device\""),
            steps: steps.into(),
        };
        let network = Network::published(Variant::by_name("paper").unwrap(), 1000).unwrap();
        Profile {
            machine: samples::machine(),
            subject: Subject::of(&network, "seed:0", 2),
            precision: "float16".into(),
            batch_size: 8,
            ceilings: Ceilings {
                flops_per_sec: 1e12,
                product: "a product".into(),
                bytes_per_sec: 1e11,
                copy: "a copy".into(),
            },
            tracks: vec![
                track(0, [step("conv1 + relu1", "conv"), step("join conv2", "join")]),
                track(1, [step("conv1 + relu1", "conv"), step("conv2", "conv")]),
            ],
            runs: 3,
            stepwise_ms: Spread::of(vec![3.0]),
            run_ms: Spread::of(vec![3.0 / 1.1]),
            steps_over_run: 1.1,
            notes: vec!["a note".into()],
        }
    }

    /// Whoever reads the JSON relies on these names; what the machine and the network are called is in every record alike.
    #[test]
    fn the_json_has_these_names() {
        let json = serde_json::to_value(alexnet::record::Record::Profile(record())).unwrap();
        assert_eq!(json["schema"], "alexnet.profile.1");
        let names = names(&json);
        let before = names.iter().position(|name| name == "precision").unwrap();
        let spread = |name: &str| {
            ["min", "mean", "median", "max", "cv", "p90", "p95", "p99"]
                .map(|figure| format!("{name}.{figure}"))
                .join(" ")
        };
        let step = "name kind kernel input_shape[] output_shape[] params mult_adds flops bytes".split(' ');
        let rates = "percentage flops_per_sec bytes_per_sec roofline_percentage bound".split(' ');
        let list = |names: &mut dyn Iterator<Item = &str>| {
            names.map(|name| format!("tracks[].steps[].{name}")).collect::<Vec<_>>().join(" ")
        };
        let expected = format!(
            "precision batch_size ceilings.flops_per_sec ceilings.product ceilings.bytes_per_sec ceilings.copy tracks[].place {} {} {} \
             runs {} {} steps_over_run notes[]",
            list(&mut step.into_iter()),
            spread("tracks[].steps[].time_ms"),
            list(&mut rates.into_iter()),
            spread("stepwise_ms"),
            spread("run_ms"),
        );
        assert_eq!(names[before..], expected.split_whitespace().collect::<Vec<_>>());
    }

    #[test]
    fn what_does_not_add_up_is_said() {
        let mut profile = record();
        assert!(warnings(&profile)[0].contains("10.0 % more"), "{:?}", warnings(&profile));
        profile.steps_over_run = 0.9;
        assert!(warnings(&profile)[0].contains("10.0 % less"));
        profile.steps_over_run = 0.96;
        assert_eq!(warnings(&profile), Vec::<String>::new());
        profile.tracks[1].steps[1].roofline_percentage = 101.0;
        assert!(warnings(&profile)[0].starts_with("conv2 computes faster"));
    }

    #[test]
    fn trtexecs_form_has_these_names() {
        let export: Value = serde_json::from_str(&crate::cli::profile::trtexec::export(&record())).unwrap();
        assert_eq!(export[0], serde_json::json!({ "count": 3 }));
        let expected = serde_json::json!({
            "name": "tower 1: conv2", "timeMs": 4.5, "averageMs": 1.5, "medianMs": 1.5, "percentage": 25.0,
        });
        assert_eq!(export[4], expected);
        assert_eq!(export.as_array().unwrap().len(), 5);
    }
}
