//! What goes wrong on a device, call by call: `predict` as a process, under the emulated driver, in which a call of the run
//! fails, starts work that never ends, or is forgotten.

use std::collections::HashMap;
use std::fs::{self, File};
use std::path::Path;
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use alexnet::net::{Network, Variant};
use alexnet::weights::{Checkpoint, Tensor};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::{device, testdata};

mod split;

/// Of different classes one after another, for rows that cannot be taken for each other.
const PICTURES: [&str; 11] = [
    "star/0",
    "ring/0",
    "cross/0",
    "disc/0",
    "dots/1",
    "square/0",
    "stripes/2",
    "spiral/0",
    "star/1",
    "triangle/0",
    "ring/1",
];
/// A child that runs longer hangs: none takes a second on an idle machine.
const LIMIT: Duration = Duration::from_secs(60);
/// Children at once.
const THREADS: usize = 2;
/// Of what is tried call by call, the part that `cargo test` tries.
const SPREAD: usize = 12;
/// Probabilities of a batch and of its halves, which take other kernels.
const TOLERANCE: f64 = 0.01;

/// What a child left.
#[derive(Debug)]
pub struct Ended {
    pub code: i32,
    pub csv: String,
    pub stderr: String,
    /// Calls by kind.
    pub calls: HashMap<String, usize>,
}

/// A run of `predict` in float16.
#[derive(Debug, Clone, Copy)]
pub struct Case {
    pub device: &'static str,
    /// How the network is split, if it is.
    pub split: Option<&'static str>,
    pub network: Weights,
    pub batch: usize,
    pub images: usize,
    pub streams: &'static str,
    /// Whether two devices reach each other's memory.
    pub peer: bool,
}

/// What a run computes by.
#[derive(Debug, Clone, Copy)]
pub enum Weights {
    /// The demo, on small pictures.
    Demo,
    /// The same with weights by which every picture overflows float16.
    Overflowing,
    /// The sample of the paper's network.
    Paper,
    /// Few random ones of caffe's network, whose normalisation goes across its towers' border.
    Caffe,
}

impl Weights {
    /// The arguments that say so, of which a file may be in `folder`.
    fn arguments(self, folder: &Path) -> Vec<String> {
        let path = folder.join("weights.safetensors");
        let (checkpoint, path) = match self {
            Weights::Demo => return vec!["--input-size=71".into()],
            Weights::Paper => (None, testdata::path("samples/shapes-paper.safetensors")),
            Weights::Overflowing => (Some(testdata::overflowing_demo()), path),
            Weights::Caffe => (Some(narrow_caffe()), path),
        };
        if let Some(checkpoint) = checkpoint {
            checkpoint.save_safetensors(&path).unwrap();
        }
        let checkpoint = format!("--checkpoint={}", path.display());
        match self {
            Weights::Overflowing => vec![checkpoint, "--input-size=71".into()],
            _ => vec![checkpoint],
        }
    }
}

/// Two slots, each used twice: the first batch runs kernel by kernel, the next two as graphs, and the last, which is less than a
/// batch, again kernel by kernel.
pub const FOUR_BATCHES: Case =
    Case { device: "cuda", split: None, network: Weights::Demo, batch: 2, images: 7, streams: "eager", peer: true };
/// Every picture is computed a second time, in float32.
const OVERFLOWS: Case = Case { batch: 2, images: 3, network: Weights::Overflowing, ..FOUR_BATCHES };

fn file_name(picture: &str) -> String {
    format!("samples/shapes/{picture}.jpg")
}

impl Case {
    pub fn predict(self, extra: &[&str], environment: &[(&str, &str)]) -> Ended {
        let list: String = PICTURES[..self.images].iter().map(|picture| file_name(picture) + "\n").collect();
        let batch = self.batch.to_string();
        let mut arguments = vec!["predict", "-", "-b", &batch, "--precision", "float16", "--device", self.device];
        arguments.extend(self.split.iter().flat_map(|split| ["--split", split]));
        let folder = tempfile::tempdir().unwrap();
        let weights = self.network.arguments(folder.path());
        arguments.extend(weights.iter().map(String::as_str));
        arguments.extend(extra);
        let late = [("CUEMU_STREAMS", self.streams), ("CUEMU_PEER", if self.peer { "1" } else { "0" })];
        alexnet(&arguments, &list, &[environment, &late].concat())
    }

    fn devices(self) -> usize {
        self.device.split(',').count()
    }

    /// The run that nothing disturbs.
    pub fn whole(self) -> Ended {
        let ended = self.predict(&[], &[]);
        assert_eq!((ended.code, ended.rows().len()), (0, self.images), "{ended:?}");
        ended
    }

    /// With a `CUEMU_FAULT`.
    pub fn with(self, fault: &str) -> Ended {
        self.predict(&[], &[("CUEMU_FAULT", fault)])
    }
}

/// A process on the emulated device, killed where it hangs.
pub fn alexnet(arguments: &[&str], stdin: &str, environment: &[(&str, &str)]) -> Ended {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    fs::write(path("stdin"), stdin).unwrap();
    let file = |name: &str| File::create(path(name)).unwrap();
    let mut command = Command::new(testdata::alexnet());
    command.args(arguments).current_dir(testdata::path(""));
    command.env("LD_PRELOAD", device::library()).env("CUEMU_CALLS", path("calls")).env_remove("CUDA_VISIBLE_DEVICES");
    command.env("CUEMU_DEVICES", "2").envs(device::WITHOUT_RACES).envs(environment.iter().copied());
    command.stdin(File::open(path("stdin")).unwrap()).stdout(file("stdout")).stderr(file("stderr"));
    let mut child = command.spawn().unwrap();
    let begin = Instant::now();
    let status = loop {
        match child.try_wait().unwrap() {
            Some(status) => break Some(status),
            None if begin.elapsed() > LIMIT => {
                child.kill().unwrap();
                child.wait().unwrap();
                break None;
            }
            None => thread::sleep(Duration::from_millis(5)),
        }
    };
    let read = |name: &str| fs::read_to_string(path(name)).unwrap_or_default();
    let stderr = read("stderr");
    let what = || format!("{arguments:?} {environment:?}\n{stderr}");
    let status = status.unwrap_or_else(|| panic!("it hangs: {}", what()));
    let code = status.code().unwrap_or_else(|| panic!("a signal ended it: {}", what()));
    assert!(!stderr.contains("panicked"), "{}", what());
    let calls = read("calls");
    let calls = calls.lines().map(|line| line.split_once(' ').unwrap());
    let calls = calls.map(|(kind, count)| (kind.to_string(), count.parse().unwrap())).collect();
    Ended { code, csv: read("stdout"), stderr, calls }
}

impl Ended {
    /// File names, labels and probabilities.
    fn rows(&self) -> Vec<(String, String, f64)> {
        let mut reader = csv::Reader::from_reader(self.csv.as_bytes());
        let rows = reader.deserialize::<HashMap<String, String>>().map(|row| row.expect("every row is complete"));
        rows.map(|row| {
            assert_eq!(row["error"], "", "{row:?}");
            (row["filename"].clone(), row["label"].clone(), row["prob"].parse().unwrap())
        })
        .collect()
    }

    /// Asserts that the rows are the first ones of `whole`, each once; how many.
    pub fn finished(&self, whole: &Ended) -> usize {
        let (rows, expected) = (self.rows(), whole.rows());
        assert!(rows.len() <= expected.len(), "{self:?}");
        for (found, expected) in rows.iter().zip(&expected) {
            let close = (found.2 - expected.2).abs() < TOLERANCE;
            assert!((&found.0, &found.1) == (&expected.0, &expected.1) && close, "{found:?}, expected {expected:?}");
        }
        rows.len()
    }
}

/// Random weights that keep activations of the order of 1.
fn narrow_caffe() -> Checkpoint {
    let caffe = Variant::by_name("caffe").unwrap();
    let network = Network::with_widths(caffe, &[64, 16, 16, 16, 16, 16, 64, 10], caffe.input_size).unwrap();
    let mut rng = ChaCha8Rng::seed_from_u64(11);
    let tensors = network.parameters().flat_map(|parameter| {
        let bound = (6.0 / parameter.fan_in() as f32).sqrt();
        let mut draw = |shape: &[usize]| {
            let values: Vec<f32> = (0..shape.iter().product()).map(|_| rng.random_range(-bound..bound)).collect();
            Tensor::from_f32(shape.to_vec(), &values)
        };
        let (weight, bias) = (draw(&parameter.weight_shape), draw(&parameter.weight_shape[..1]));
        [(parameter.weight(), weight), (parameter.bias(), bias)]
    });
    let tensors = tensors.collect();
    let variant = Some(caffe.name.into());
    Checkpoint { path: Default::default(), tensors, variant, labels: None, metadata: Default::default() }
}

/// `KIND:N` for every call of the kinds that `run` makes.
pub fn every_call(run: &Ended, kinds: &[&str]) -> Vec<String> {
    kinds.iter().flat_map(|kind| (1..=run.calls[*kind]).map(move |number| format!("{kind}:{number}"))).collect()
}

/// `KIND:N:CODE@DEVICE` for every call of a kind that `run` makes, of each of so many devices.
fn every_call_on(devices: usize, run: &Ended, kind: &str, code: i32) -> Vec<String> {
    let calls = |device| run.calls[&format!("{kind}@{device}")];
    let calls = (0..devices).flat_map(|device| (1..=calls(device)).map(move |number| (number, device)));
    calls.map(|(number, device)| format!("{kind}:{number}:{code}@{device}")).collect()
}

/// Some of `all`, evenly.
pub fn spread(all: Vec<String>) -> Vec<String> {
    let step = all.len().div_ceil(SPREAD);
    all.into_iter().step_by(step).collect()
}

/// Runs `check` on every item, and fails with the items that it fails on.
pub fn each(items: &[String], check: impl Fn(&str) + Sync) {
    let (next, failed) = (AtomicUsize::new(0), Mutex::new(vec![]));
    thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                while let Some(item) = items.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let checked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| check(item)));
                    if let Err(panic) = checked {
                        let text = panic.downcast_ref::<String>().cloned().unwrap_or_default();
                        failed.lock().unwrap().push(format!("{item}: {text}"));
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().unwrap();
    assert!(failed.is_empty(), "{} of {} fail:\n{}", failed.len(), items.len(), failed.join("\n"));
}

/// A call that fails ends a run that had begun with 7 and what was finished, one that had not with 5; memory that is short
/// halves the batch where that helps.
fn calls_that_fail(case: Case, choose: impl Fn(Vec<String>) -> Vec<String>) {
    let whole = case.whole();
    let mut faults = vec![];
    for (kind, code) in [("alloc", 2), ("graph", 2), ("alloc", 700), ("graph", 719), ("copy", 700), ("launch", 719)] {
        faults.extend(every_call_on(case.devices(), &whole, kind, code));
    }
    for (kind, code) in [("sync", 716), ("fill", 719), ("wait", 719), ("record", 719)] {
        faults.extend(every_call_on(case.devices(), &whole, kind, code));
    }
    each(&choose(faults), |fault| {
        let ended = case.with(fault);
        let finished = ended.finished(&whole);
        let names = |parts: &[&str]| {
            for part in parts {
                assert!(ended.stderr.contains(part), "'{part}' is not in {}", ended.stderr);
            }
        };
        let (code, device) = fault.rsplit_once(':').unwrap().1.split_once('@').unwrap();
        let cause = format!("CUDA error {code} while ");
        match (code, ended.code) {
            ("2", 0) => names(&[&cause, "out of memory", "going on with 1"]),
            ("2", 5) => names(&[&cause, "out of memory", "--batch-size"]),
            // What fails after the last row costs nothing.
            (_, 0) => assert!(!ended.stderr.contains("error"), "{ended:?}"),
            (_, 5) => names(&[&cause, "--device cpu"]),
            (_, 7) => names(&[&cause, "what was finished before is good, run the rest again"]),
            _ => panic!("{ended:?}"),
        }
        let told = ended.stderr.lines().find(|line| line.contains(&cause));
        let named = |line: &str| line.contains(&format!("cuda:{device}")) || line.contains("page-locked memory");
        assert!(told.is_none_or(named), "cuda:{device} is not named: {}", ended.stderr);
        let all = finished == case.images;
        assert!(
            match ended.code {
                0 => all,
                5 => finished == 0,
                _ => finished.is_multiple_of(case.batch) && !all,
            },
            "{finished} rows: {ended:?}"
        );
    });
}

#[test]
fn some_calls_that_fail() {
    calls_that_fail(FOUR_BATCHES, spread);
}

#[test]
#[ignore = "a process for every call of a run, run by .ci/run"]
fn every_call_that_fails() {
    calls_that_fail(FOUR_BATCHES, |all| all);
}

#[test]
#[ignore = "a process for every call of a run, run by .ci/run"]
fn every_call_that_fails_beside_float32() {
    calls_that_fail(OVERFLOWS, |all| all);
}

/// Batches before the one that fails are out, none of the others.
#[test]
fn finished_batches_are_out() {
    let whole = FOUR_BATCHES.whole();
    // The last graph is the third batch's, the last wait the fourth's; the batch before is under way as well.
    for (kind, code, rows) in [("graph", 719, 2), ("wait", 700, 4)] {
        let ended = FOUR_BATCHES.with(&format!("{kind}:{}:{code}", whole.calls[kind]));
        assert_eq!((ended.code, ended.finished(&whole)), (7, rows), "{kind}: {ended:?}");
    }
}

/// No batch fits, however small: the batches that were finished before stay.
#[test]
fn memory_that_stays_short() {
    let whole = FOUR_BATCHES.whole();
    let ended = FOUR_BATCHES.with(&format!("graph:{}+:2", whole.calls["graph"]));
    assert_eq!(ended.code, 5, "{ended:?}");
    assert!(ended.stderr.contains("going on with 1") && ended.stderr.contains("--batch-size"), "{ended:?}");
    assert_eq!(ended.finished(&whole), 2);
}

/// A device that does not answer is given up after `--patience`: what was finished is out, and nothing waits for it again.
#[test]
fn a_device_that_hangs() {
    let whole = FOUR_BATCHES.whole();
    // Of four graph calls a graph the last starts it: the second batch's, and the third's.
    let hangs = [("graph:4:hang", 2), ("graph:8:hang", 4), ("launch:3:hang", 0)];
    // Without memory pools every call that frees memory waits for the device.
    for (streams, pools) in [("eager", "1"), ("deferred", "1"), ("eager", "0")] {
        let faults: Vec<String> = hangs.iter().map(|(fault, _)| fault.to_string()).collect();
        each(&faults, |fault| {
            let case = Case { streams, ..FOUR_BATCHES };
            let ended = case.predict(&["--patience", "1"], &[("CUEMU_FAULT", fault), ("CUEMU_POOLS", pools)]);
            let rows = hangs.iter().find(|(hang, _)| *hang == fault).unwrap().1;
            assert_eq!((ended.code, ended.finished(&whole)), (7, rows), "{ended:?}");
            assert!(ended.stderr.contains("within 1 s") && ended.stderr.contains("--patience"), "{ended:?}");
        });
    }
}

/// So is one that does not answer when pictures are computed again in float32.
#[test]
fn a_device_that_hangs_in_float32() {
    let whole = OVERFLOWS.whole();
    // The last launch ranks the last picture's classes.
    let fault = format!("launch:{}:hang", whole.calls["launch"]);
    let ended = OVERFLOWS.predict(&["--patience", "1"], &[("CUEMU_FAULT", &fault)]);
    assert_eq!((ended.code, ended.finished(&whole)), (7, 2), "{ended:?}");
    assert!(ended.stderr.contains("--patience"), "{ended:?}");
}

/// Nor does a run wait for such a device that ends for another reason.
#[test]
#[cfg(target_os = "linux")]
fn a_device_that_hangs_while_the_disk_is_full() {
    let extra = ["--patience", "1", "--results-file", "/dev/full"];
    let ended = FOUR_BATCHES.predict(&extra, &[("CUEMU_FAULT", "graph:4:hang")]);
    assert_eq!(ended.code, 6, "{ended:?}");
}

/// `summary` tells the largest batch that `predict` runs where another process has most of the memory; a larger one is
/// halved before it is asked for.
#[test]
fn the_largest_batch_that_fits() {
    let number = |text: &str, before: &str| -> f64 {
        let rest = text.split_once(before).unwrap_or_else(|| panic!("'{before}' is not in {text}")).1;
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        rest[..end].parse().unwrap()
    };
    let summary = |batch: &str, memory: &str| {
        let ended = alexnet(
            &["summary", "--precision", "float16", "-b", batch, "--device", "cuda", "--input-size", "71"],
            "",
            &[("CUEMU_MEMORY", memory)],
        );
        assert_eq!(ended.code, 0, "{ended:?}");
        ended.csv
    };
    let plenty = summary("4", "8000000000");
    let needed = number(&plenty, "weights: ") + number(&plenty, "batch 4: ");
    assert!(number(&plenty, "free: ") == 8000.0 && number(&plenty, "that fits: ") == 65536.0, "{plenty}");
    // A little more than a batch of 4 needs, and what is left to others.
    let memory = ((needed + 0.1) * 16.0 / 15.0 * 1e6).to_string();
    let memory = memory.split('.').next().unwrap();
    let tight = summary("4", memory);
    let most = number(&tight, "that fits: ") as usize;
    assert!((4..7).contains(&most), "{tight}");
    let predict = |batch: usize| {
        let case = Case { batch, images: 7, ..FOUR_BATCHES };
        let ended = case.predict(&[], &[("CUEMU_MEMORY", memory)]);
        assert_eq!((ended.code, ended.finished(&case.whole())), (0, 7), "{ended:?}");
        ended.stderr
    };
    let fits = predict(most);
    assert!(!fits.contains("going on with"), "{fits}");
    let halved = predict(most + 1);
    let half = format!("going on with {}: a batch of {} needs", most.div_ceil(2), most + 1);
    assert!(halved.contains(&half) && halved.contains(" free; lower --batch-size"), "{halved}");
    assert!(!halved.contains("CUDA error"), "it was found before it was asked for: {halved}");
}

/// Runs of which each call matters to one at least. The second fills up the first slot's first batch, the third the second
/// slot's.
const SCENARIOS: [Case; 3] =
    [FOUR_BATCHES, Case { batch: 4, images: 3, ..FOUR_BATCHES }, Case { batch: 4, images: 7, ..FOUR_BATCHES }];

/// Calls that [`FOUR_BATCHES`] can do without.
///
/// The second copy is of conv1's filters in the layout that kept inputs have, of which `predict` has none. Each upload of weights
/// is waited for, and so are those before it: only the last one's record is missed. Batches make nine records: two each, and one
/// before the first.
fn not_missed(run: &Ended) -> Vec<String> {
    let uploads = run.calls["record"] - 9;
    let records = (1..uploads).map(|number| format!("record:{number}"));
    records.chain(["copy:2".into()]).collect()
}

/// With any one call forgotten, the output differs or the device reports a fault, in one of the runs.
fn forgotten_calls(kinds: &[&str]) {
    let late = SCENARIOS.iter().flat_map(|&case| ["deferred", "overtaking"].map(|streams| Case { streams, ..case }));
    let runs: Vec<(Case, Ended)> = late.map(|case| (case, case.whole())).collect();
    let calls = every_call(&runs[0].1, kinds);
    assert!(calls.len() >= kinds.len());
    let not_missed = not_missed(&runs[0].1);
    assert_eq!(not_missed.len(), 17, "a filter and a bias a layer, and conv1's filters twice");
    each(&calls, |call| {
        let missed = runs.iter().any(|(case, whole)| {
            let ended = case.with(&format!("{call}:skip"));
            ended.code != 0 || ended.csv != whole.csv
        });
        let expected = !not_missed.iter().any(|other| other == call);
        assert!(missed == expected, "{}", if missed { "it is missed" } else { "nobody misses it" });
    });
}

#[test]
#[ignore = "a process for every such call of a run, run by .ci/run"]
fn forgotten_waits_records_and_fills() {
    forgotten_calls(&["wait", "record", "fill"]);
}

#[test]
#[ignore = "a process for every copy and launch of a run, run by .ci/run"]
fn forgotten_copies_and_launches() {
    forgotten_calls(&["copy", "launch"]);
}

/// The pipelines' tests, with work done as late as the driver's promises allow.
#[test]
#[ignore = "the pipelines' tests twice, run by .ci/run"]
fn pipelines_on_late_streams() {
    for streams in ["deferred", "overtaking"] {
        let mut suite = Command::new(std::env::current_exe().unwrap());
        suite.args(["pipeline::", "--test-threads", "2"]);
        suite.env("ALEXNET_TEST_DEVICE", "emulated").env("CUEMU_STREAMS", streams).envs(device::WITHOUT_RACES);
        let output = suite.output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && text.contains("overflows_are_computed_again"), "{streams}: {text}");
    }
}
