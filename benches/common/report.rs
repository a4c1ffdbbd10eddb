//! A table after each group, and the record of all.

use std::cell::OnceCell;
use std::path::PathBuf;

use alexnet::record::{Bound, Ceilings, KernelCase, KernelPeer, Kernels, Machine};
use alexnet::roofline::Demand;
use alexnet::statistics::Spread;
use alexnet::{Model, Precision};

use super::clock::Clock;
use super::{Choice, Place, SAMPLES};

/// A case that ran.
pub struct Measured {
    pub variant: &'static str,
    pub layer: String,
    pub precision: Precision,
    pub batch: usize,
    pub demands: Vec<Demand>,
    pub how: String,
    pub times_us: Vec<f64>,
    /// Library, what it ran, and its times.
    pub peers: Vec<(&'static str, String, Vec<f64>)>,
}

/// What is known so far. Nothing is asked of the device before a case has run.
pub struct Report {
    path: Option<PathBuf>,
    kernels: OnceCell<Kernels>,
    notes: Vec<String>,
}

impl Report {
    pub fn open(choice: &Choice, clock: &Clock) -> Self {
        let mut notes = vec![];
        notes.push(match &choice.place {
            _ if choice.emulated => "on the emulated device: that benchmarks run is all that this says".into(),
            Place::Cpu => "operands are random and stay the same, so that caches are as warm as they get".into(),
            Place::Cuda(_) if matches!(clock, Clock::Host) => {
                "whole networks: batches of the same random pictures follow each other, timed by the host's clock".into()
            }
            Place::Cuda(_) => format!(
                "operands are random, never zeros; runs of a case take turns with sets of them that together have {} MB or \
                 more, so that none is found in the L2; {} runs or more are one CUDA graph, timed by events of the device",
                choice.round.cold_bytes >> 20,
                choice.round.runs
            ),
        });
        Report { path: std::env::var_os("ALEXNET_BENCH_RECORD").map(PathBuf::from), kernels: OnceCell::new(), notes }
    }

    /// Adds a note, and says it when it is new.
    pub fn note(&mut self, note: String) {
        if !self.notes.contains(&note) {
            eprintln!("note: {note}");
            self.notes.push(note);
        }
    }

    /// Keeps what was measured of `group`, in the record's file too: a run that is stopped loses no case that is done.
    pub fn take(&mut self, group: &str, measured: Measured, choice: &Choice) -> KernelCase {
        if measured.times_us.len() < SAMPLES {
            self.note(format!("cases of {group} ran less than {SAMPLES} times: a test, not a measurement"));
        }
        if self.kernels.get().is_none() {
            let opened = open_record(self.path.as_deref(), &measured, choice);
            let opened = opened.unwrap_or_else(|reason| {
                eprintln!("error: {reason}");
                std::process::exit(2)
            });
            let _ = self.kernels.set(opened);
        }
        let kernels = self.kernels.get_mut().expect("just opened");
        let name = measured.precision.name();
        let ceilings = match kernels.ceilings(name) {
            Some(ceilings) => ceilings.clone(),
            None => {
                let ceilings = ceilings(measured.precision, choice);
                kernels.ceilings.push((name.into(), ceilings.clone()));
                ceilings
            }
        };
        let case = kernel_case(group, measured, &ceilings);
        kernels.add(case.clone());
        self.write();
        case
    }

    /// Shows the cases of a group.
    pub fn show(&self, cases: &[KernelCase]) {
        let (Some(kernels), false) = (self.kernels.get(), cases.is_empty()) else { return };
        println!("\n{}", row(&HEADER.map(String::from)));
        cases.iter().for_each(|case| println!("{}", row(&columns(case))));
        for (name, Ceilings { flops_per_sec, product, bytes_per_sec, copy }) in &kernels.ceilings {
            let (tera, giga) = (flops_per_sec / 1e12, bytes_per_sec / 1e9);
            println!("{name}: at most {tera:.3} TFLOP/s ({product}) and {giga:.0} GB/s ({copy})");
        }
        println!();
    }

    /// Says where the record is, where one was asked for.
    pub fn finish(mut self) {
        self.write(); // notes of the last peers
        if let (Some(path), Some(_)) = (self.path, self.kernels.get()) {
            eprintln!("recorded in {}", path.display());
        }
    }

    fn write(&mut self) {
        let (Some(path), Some(kernels)) = (&self.path, self.kernels.get_mut()) else { return };
        self.notes.iter().for_each(|note| kernels.note(note.clone()));
        if let Err(error) = kernels.clone().write(path) {
            eprintln!("error: {error}");
            std::process::exit(6);
        }
    }
}

/// A small model on the same device, of which the machine and the ceilings are asked.
fn model(precision: Precision, choice: &Choice) -> Model {
    Model::demo(&choice.options(precision)).expect("the demo's weights fit")
}

fn ceilings(precision: Precision, choice: &Choice) -> Ceilings {
    model(precision, choice).ceilings().expect("memory for a product")
}

fn open_record(path: Option<&std::path::Path>, first: &Measured, choice: &Choice) -> Result<Kernels, String> {
    let mut machine = Machine::of(&model(first.precision, choice));
    if let Place::Cuda(lane) = &choice.place {
        machine.device = lane.device().to_string(); // without the model's precision
    }
    match path {
        Some(path) => Kernels::open(path, machine).map_err(|e| e.to_string()),
        None => Ok(Kernels { machine, ceilings: vec![], cases: vec![], notes: vec![] }),
    }
}

fn kernel_case(group: &str, measured: Measured, ceilings: &Ceilings) -> KernelCase {
    let Measured { variant, layer, precision, batch, demands, how, times_us, peers } = measured;
    let time_us = Spread::of(times_us);
    let seconds = time_us.median / 1e6;
    let least: Vec<(f64, Bound)> = demands.iter().map(|demand| demand.least_seconds(ceilings)).collect();
    let total: f64 = least.iter().map(|(seconds, _)| seconds).sum();
    let compute: f64 = least.iter().filter(|(_, bound)| *bound == Bound::Compute).map(|(seconds, _)| seconds).sum();
    let flops: f64 = demands.iter().map(Demand::flops).sum();
    let bytes: f64 = demands.iter().map(|demand| demand.bytes as f64).sum();
    let peers = peers.into_iter().map(|(library, how, times_us)| {
        let spread = Spread::of(times_us);
        KernelPeer { library: library.into(), how, ratio: spread.median / time_us.median, time_us: spread }
    });
    let peers = peers.collect();
    KernelCase {
        group: group.into(),
        variant: variant.into(),
        layer,
        precision: precision.name().into(),
        batch_size: batch,
        kernel: how,
        flops,
        bytes,
        flops_per_sec: flops / seconds,
        bytes_per_sec: bytes / seconds,
        roofline_percentage: 100.0 * total / seconds,
        // Of a whole network what holds for most of its time.
        bound: if compute > total / 2.0 { Bound::Compute } else { Bound::Memory },
        time_us,
        peers,
    }
}

const HEADER: [&str; 7] = ["case", "us", "TFLOP/s", "GB/s", "% of ceiling", "bound", "peers, x our time"];

fn columns(case: &KernelCase) -> [String; 7] {
    let KernelCase { variant, layer, precision, batch_size, .. } = case;
    let peers = case.peers.iter().map(|peer| format!("{} {:.2}", peer.library, peer.ratio));
    [
        format!("{variant}/{layer}/{precision}/{batch_size}"),
        format!("{:.2}", case.time_us.median),
        format!("{:.3}", case.flops_per_sec / 1e12),
        format!("{:.1}", case.bytes_per_sec / 1e9),
        format!("{:.1}", case.roofline_percentage),
        format!("{:?}", case.bound).to_lowercase(),
        peers.collect::<Vec<_>>().join(", "),
    ]
}

fn row([case, us, flops, bytes, percentage, bound, peers]: &[String; 7]) -> String {
    format!("{case:<48} {us:>12} {flops:>9} {bytes:>9} {percentage:>12} {bound:>8}  {peers}").trim_end().to_string()
}
