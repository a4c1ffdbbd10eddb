//! What the kernel benchmarks share: a device, criterion on its clock, and a table and a record of what was measured.
//!
//! | variable | value |
//! |---|---|
//! | `ALEXNET_BENCH_DEVICE` | `auto` (the default: the first GPU that can be used, else the CPU), `cpu`, `cuda`, `cuda:N`; `emulated` to check that benchmarks run |
//! | `ALEXNET_BENCH_BATCHES` | images a run, `1,256`; by default 1, 8, 32 on the CPU and 1, 32, 256 on a GPU |
//! | `ALEXNET_BENCH_PRECISIONS` | `float16,tf32`; by default all four on a GPU |
//! | `ALEXNET_BENCH_RECORD` | a file that takes what was measured, as a [`Record`](alexnet::record::Record); later runs add to it |
//!
//! Criterion's arguments choose cases by their names and `--test` runs each once. The number of samples is fixed: of every
//! case the last [`SAMPLES`] measurements are its samples, those before warm up.

#![allow(dead_code)] // every benchmark takes the part it needs

#[path = "../../tests/cases.rs"]
pub mod cases;
pub mod clock;
pub mod cpu;
mod cuda;
mod cudnn;
mod device;
mod report;

use std::time::Duration;

use alexnet::Precision;
use alexnet::plan::StepKind;
use alexnet::roofline::Demand;
use criterion::measurement::Measurement;
use criterion::{BenchmarkGroup, BenchmarkId, Criterion, Throughput};

use clock::Clock;
pub use device::{Choice, Place};
use report::{Measured, Report};

/// Measurements of a case.
pub const SAMPLES: usize = 10;

/// A benchmark's device, and what it has measured.
pub struct Bench {
    criterion: Criterion<Clock>,
    clock: Clock,
    pub choice: Choice,
    report: Report,
}

/// Something to measure, made only if criterion's filter lets it run.
pub struct Case<'a> {
    pub variant: &'static str,
    /// `conv1+relu1`.
    pub layer: String,
    pub precision: Precision,
    pub batch: usize,
    /// Of each step of a run.
    pub demands: Vec<Demand>,
    pub make: Box<dyn FnOnce() -> Routine<'a> + 'a>,
    /// By name, or why there is none.
    pub peers: Vec<(&'static str, MakePeer<'a>)>,
}

pub type MakePeer<'a> = Box<dyn FnOnce() -> Result<Routine<'a>, String> + 'a>;

/// Rounds of runs.
pub struct Routine<'a> {
    /// What runs, in words.
    pub how: String,
    /// Runs a round.
    pub runs: usize,
    /// Does or queues a round.
    pub round: Box<dyn FnMut() + 'a>,
}

impl Bench {
    /// On the device's clock where it has one.
    pub fn open() -> Self {
        let choice = Choice::from_environment();
        let clock = match &choice.place {
            Place::Cpu => Clock::Host,
            Place::Cuda(lane) => Clock::Device(lane.clone()),
        };
        Self::on(choice, clock)
    }

    /// On the host's clock, for work that is more than one stream's.
    pub fn on_the_hosts_clock() -> Self {
        Self::on(Choice::from_environment(), Clock::Host)
    }

    fn on(choice: Choice, clock: Clock) -> Self {
        let criterion = Criterion::default().with_measurement(clock.clone()).warm_up_time(Duration::from_millis(300));
        let criterion = criterion.measurement_time(Duration::from_secs(1)).configure_from_args();
        Bench { criterion, report: Report::open(&choice, &clock), clock, choice }
    }

    /// The layers that `wanted` picks: on the CPU each as the network has it, on a GPU the steps that a session runs, beside
    /// cuDNN and cuBLASLt.
    pub fn layers(&mut self, name: &'static str, wanted: impl Fn(&StepKind) -> bool) {
        let choice = self.choice.clone();
        let cases = match &choice.place {
            Place::Cpu => cpu::layers(&choice, wanted),
            Place::Cuda(lane) => cuda::layers(&choice, lane, wanted),
        };
        self.run(name, cases);
    }

    /// The pairs of steps that one kernel can do, picked by what they are fused to: in one kernel and, as its peer, in two. The
    /// CPU has none.
    pub fn pairs(&mut self, name: &'static str, wanted: impl Fn(&StepKind) -> bool) {
        let choice = self.choice.clone();
        if let Place::Cuda(lane) = &choice.place {
            self.run(name, cuda::pairs(&choice, lane, wanted));
        }
    }

    /// Measures `cases`, and shows and keeps what came of it.
    pub fn run(&mut self, name: &'static str, cases: Vec<Case<'_>>) {
        let Bench { criterion, clock, report, choice } = self;
        let mut group = criterion.benchmark_group(name);
        group.sample_size(SAMPLES);
        let mut taken = vec![];
        for case in cases {
            let Case { variant, layer, precision, batch, demands, make, peers } = case;
            let flops: f64 = demands.iter().map(Demand::flops).sum();
            group.throughput(match demands.len() {
                1 if flops > 0.0 => Throughput::Elements(flops as u64),
                1 => Throughput::BytesDecimal(demands[0].bytes as u64),
                _ => Throughput::Elements(batch as u64),
            });
            let id = |by: &str| BenchmarkId::new(format!("{variant}/{layer}/{}/{by}", precision.name()), batch);
            let Some((how, times_us)) = measure(&mut group, clock, id(choice.by()), make) else { continue };
            let mut beside = vec![];
            for (library, make) in peers {
                match make() {
                    Ok(routine) => beside.extend(
                        measure(&mut group, clock, id(library), || routine)
                            .map(|(how, times_us)| (library, how, times_us)),
                    ),
                    Err(reason) => report.note(format!("no {library}: {reason}")),
                }
            }
            let measured = Measured { variant, layer, precision, batch, demands, how, times_us, peers: beside };
            taken.push(report.take(name, measured, choice));
        }
        group.finish();
        report.show(&taken);
    }

    /// Criterion's last word, and the record where one is asked for.
    pub fn finish(self) {
        self.criterion.final_summary();
        self.report.finish();
    }
}

/// What ran, and microseconds a run in each sample; `None` where the filter leaves it out.
fn measure<'a>(
    group: &mut BenchmarkGroup<'_, Clock>,
    clock: &Clock,
    id: BenchmarkId,
    make: impl FnOnce() -> Routine<'a>,
) -> Option<(String, Vec<f64>)> {
    let mut make = Some(make);
    let mut made: Option<Routine<'a>> = None;
    let mut times_us = vec![];
    group.bench_function(id, |bencher| {
        let Routine { runs: per_round, round, .. } = made.get_or_insert_with(|| make.take().expect("made once")());
        bencher.iter_custom(|runs| {
            // Whole rounds, which may be more runs than criterion asks for.
            let rounds = runs.div_ceil(*per_round as u64);
            let begin = clock.start();
            (0..rounds).for_each(|_| round());
            let time = clock.end(begin).max(Duration::from_nanos(1));
            let run = time.as_secs_f64() / (rounds * *per_round as u64) as f64;
            times_us.push(run * 1e6);
            Duration::from_secs_f64(run * runs as f64)
        });
    });
    let samples = times_us.split_off(times_us.len().saturating_sub(SAMPLES));
    made.map(|routine| (routine.how, samples))
}
