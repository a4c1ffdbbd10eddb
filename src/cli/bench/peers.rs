//! Other programs' figures beside this run's.

use std::cmp::Ordering;
use std::fmt::Write;
use std::path::PathBuf;

use alexnet::record::{Bench, BenchResult, Machine, Record};
use alexnet::{Error, Result};

const IN_MEMORY: &str = "writing to a String";

/// A record of another program, or of an earlier run.
pub struct Peer {
    /// Its file.
    name: String,
    pub bench: Bench,
}

/// # Errors
/// [`Error::Usage`] naming the file that is missing, or has no record of whole networks' speed.
pub fn read(files: &[PathBuf]) -> Result<Vec<Peer>> {
    let read = |file: &PathBuf| {
        let name = file.display().to_string();
        let benches = Record::read_all(file)?.into_iter().filter_map(|record| match record {
            Record::Bench(bench) => Some(Peer { name: name.clone(), bench }),
            _ => None,
        });
        let benches: Vec<Peer> = benches.collect();
        if benches.is_empty() {
            return Err(Error::Usage(format!("{name}: records of other kinds; take one of schema alexnet.bench.1")));
        }
        Ok(benches)
    };
    Ok(files.iter().map(read).collect::<Result<Vec<_>>>()?.into_iter().flatten().collect())
}

impl Peer {
    /// What makes its figures hard to compare with those of `ours`, a sentence each.
    pub fn differences(&self, ours: &Bench) -> Vec<String> {
        let theirs = &self.bench;
        let pairs = [
            ("on", hardware(&theirs.machine), hardware(&ours.machine)),
            ("of the model", theirs.subject.model.clone(), ours.subject.model.clone()),
            ("at an input size of", theirs.subject.input_size.to_string(), ours.subject.input_size.to_string()),
            ("with parameters:", theirs.subject.param_count.to_string(), ours.subject.param_count.to_string()),
        ];
        // Threads matter to what computes on them.
        let on_cpu = theirs.machine.gpus.is_empty() || ours.machine.gpus.is_empty();
        let threads = ("with CPU threads:", theirs.subject.threads.to_string(), ours.subject.threads.to_string());
        let pairs = pairs.into_iter().chain(on_cpu.then_some(threads));
        let differ = pairs.filter(|(_, theirs, ours)| theirs != ours);
        differ
            .map(|(what, theirs, ours)| format!("{} was measured {what} {theirs}, this run {ours}", self.name))
            .collect()
    }
}

/// GPUs, where there are any, else the CPU.
fn hardware(machine: &Machine) -> String {
    match &machine.gpus[..] {
        [] => machine.cpu.clone().unwrap_or_else(|| "an unknown CPU".into()),
        gpus => gpus.join(" and "),
    }
}

/// For each result of `ours` those of `peers` in the same mode, precision and batch size, fastest first.
pub fn table(ours: &Bench, peers: &[&Bench]) -> String {
    let mut text = String::new();
    for own in &ours.results {
        let same = |other: &&BenchResult| {
            (other.mode, &other.precision, other.batch_size) == (own.mode, &own.precision, own.batch_size)
        };
        let mut rows: Vec<&BenchResult> = peers.iter().flat_map(|peer| &peer.results).filter(same).collect();
        if rows.is_empty() {
            continue;
        }
        rows.push(own);
        rows.sort_by(|a, b| b.samples_per_sec.partial_cmp(&a.samples_per_sec).unwrap_or(Ordering::Equal));
        let title = format!("{}, {}, batch {}", own.precision, own.mode.name(), own.batch_size);
        writeln!(text, "\n{title:<44}{:>12}{:>12}{:>14}", "images/s", "median ms", "ours/theirs").expect(IN_MEMORY);
        for row in rows {
            let ratio = if std::ptr::eq(row, own) {
                "this run".into()
            } else {
                format!("{:.2}", own.samples_per_sec / row.samples_per_sec)
            };
            let configuration = row.configuration.as_ref().map(|how| format!(" ({how})")).unwrap_or_default();
            let name = format!("{}{configuration}", row.program);
            writeln!(text, "  {name:<42}{:>12.1}{:>12.3}{ratio:>14}", row.samples_per_sec, row.latency_ms.median)
                .expect(IN_MEMORY);
        }
    }
    match text.is_empty() {
        true => "\nno peer has a result of the same mode, precision and batch size as one of these\n".into(),
        false => text,
    }
}
