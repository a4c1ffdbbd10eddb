//! Data parallel: batches in turn on several devices, of which one may fail. First on made-up devices, every call of which
//! goes wrong in every way; then on two emulated ones.

mod fake;

use std::collections::{BTreeSet, VecDeque};
use std::sync::Mutex;

use alexnet::backend::Backend;
use alexnet::parallel::Parallel;
use alexnet::{Done, Error, Pipeline, Pixels, Result, Score};

use crate::device::CPU;
use crate::faults::{Case, Ended, FOUR_BATCHES, Weights, alexnet, each, every_call};
use fake::{Call, Effect, Fault, IMAGES, batch, plan};

/// Devices with pipelines of these depths, with what goes wrong.
fn parallel(depths: &[usize], faults: &[Fault]) -> Parallel {
    Parallel::new(fake::devices(depths, faults))
}

fn open(parallel: &Parallel) -> Box<dyn Pipeline> {
    parallel.pipeline(plan(), 1, Score::Prob).unwrap()
}

/// Asserts that this is batch `number`, in the memory that it was submitted in.
fn check(done: &Done, number: usize, address: *const u8) {
    let scores: Vec<f32> = done.scored.iter().map(|scored| scored.predictions[0].score).collect();
    assert_eq!(scores, vec![number as f32; IMAGES], "batch {number}");
    assert!(done.pixels.as_ptr() == address && done.pixels[..] == batch(number)[..], "batch {number}: its pixels");
}

/// What became of a run.
struct Ran {
    finished: usize,
    /// Batches under way at the end.
    under_way: usize,
    result: Result<()>,
}

/// Submits batches `first..last`, as many at once as may be, and checks what comes out.
fn run(pipeline: &mut dyn Pipeline, first: usize, last: usize) -> Ran {
    let mut addresses = VecDeque::new();
    let mut ran = Ran { finished: 0, under_way: 0, result: Ok(()) };
    let mut next = first;
    ran.result = loop {
        if next < last && addresses.len() < pipeline.depth() {
            let pixels = batch(next);
            addresses.push_back(pixels.as_ptr());
            next += 1;
            if let Err(error) = pipeline.submit(pixels) {
                break Err(error);
            }
            continue;
        }
        match pipeline.collect() {
            Ok(Some(done)) => check(&done, first + ran.finished, addresses.pop_front().unwrap()),
            Ok(None) => break Ok(()),
            Err(error) => break Err(error),
        }
        ran.finished += 1;
    };
    ran.under_way = addresses.len();
    ran
}

/// Asserts that `pipeline` gives back batches `numbers`.
fn abandon(pipeline: &mut dyn Pipeline, numbers: std::ops::Range<usize>) {
    let pixels = pipeline.abandon();
    let all_there = pixels.iter().map(|pixels| usize::from(pixels[0])).eq(numbers.clone());
    assert!(all_there && pixels.iter().all(|pixels| pixels.len() == batch(0).len()), "{numbers:?}");
}

#[test]
fn batches_take_turns_and_come_out_in_order() {
    for depths in [&[1][..], &[2, 2], &[1, 1, 1], &[1, 3], &[2, 1, 2]] {
        let (parallel, depth) = (parallel(depths, &[]), depths.iter().sum::<usize>());
        let mut pipeline = open(&parallel);
        assert_eq!(pipeline.depth(), depth);
        assert!(pipeline.collect().unwrap().is_none());
        for (first, last) in [(0, 3 * depth + 1), (100, 101), (102, 102 + depth)] {
            let ran = run(&mut *pipeline, first, last);
            assert!(ran.result.is_ok() && ran.finished == last - first);
        }
        // Full, then given up.
        for number in 0..depth {
            pipeline.submit(batch(number)).unwrap();
        }
        abandon(&mut *pipeline, 0..depth);
        assert_eq!(run(&mut *pipeline, 0, depth + 1).finished, depth + 1);
        assert!(parallel.given_up().is_empty());
    }
}

/// Every device has work as soon as there is a batch for each.
#[test]
fn each_device_has_its_turn() {
    for (depths, turns) in [(&[2, 2][..], &[0, 1, 0, 1, 0][..]), (&[1, 3, 2], &[0, 1, 2, 1, 2, 1, 0])] {
        let parallel = parallel(depths, &[]);
        let mut pipeline = open(&parallel);
        for turn in turns {
            pipeline.submit(batch(0)).unwrap();
            assert_eq!(pipeline.collect().unwrap().unwrap().scored[0].predictions[0].index, *turn, "{depths:?}");
        }
    }
}

/// Pixels that a device holds are used where the batch comes to the place where they are, and copied elsewhere.
#[test]
fn resident_pixels_are_found() {
    for (depths, faults) in [
        (vec![2, 2], vec![]),
        (vec![1, 3], vec![]),
        (vec![2, 1, 2], vec![]),
        (vec![2, 2], vec![Fault { device: 0, call: Call::Submit, number: 4, effect: Effect::Fails }]),
        (vec![2, 1, 2], vec![Fault { device: 1, call: Call::Collect, number: 2, effect: Effect::Hangs }]),
    ] {
        let parallel = parallel(&depths, &faults);
        let mut pipeline = open(&parallel);
        let depth = pipeline.depth();
        let mut free = VecDeque::new();
        for number in 0..depth {
            pipeline.submit(batch(number)).unwrap();
            free.push_back(pipeline.collect().unwrap().unwrap().pixels);
        }
        let resubmitted = 4 * depth;
        for number in 0..resubmitted + depth {
            if number < resubmitted {
                pipeline.resubmit(free.pop_front().unwrap()).unwrap();
            }
            if number + 1 >= depth && number - (depth - 1) < resubmitted {
                let done = pipeline.collect().unwrap().unwrap();
                check(&done, (number - (depth - 1)) % depth, done.pixels.as_ptr());
                free.push_back(done.pixels);
            }
        }
        assert!(pipeline.collect().unwrap().is_none());
        assert_eq!(parallel.given_up().len(), faults.len());
    }
}

/// Times are those of the device that computed the batch; one that cannot tell the time is done without.
#[test]
fn each_batch_has_its_devices_times() {
    for faults in [vec![], vec![Fault { device: 1, call: Call::Time, number: 1, effect: Effect::Fails }]] {
        let parallel = parallel(&[1, 1, 1], &faults);
        let mut pipeline = open(&parallel);
        pipeline.submit(batch(0)).unwrap();
        assert!(pipeline.collect().unwrap().unwrap().times.is_none());
        pipeline.time().unwrap();
        let mut devices = BTreeSet::new();
        for number in 0..4 {
            pipeline.submit(batch(number)).unwrap();
            let done = pipeline.collect().unwrap().unwrap();
            let device = done.scored[0].predictions[0].index;
            assert_eq!(done.times.unwrap().compute.length().as_millis(), device as u128);
            devices.insert(device);
        }
        assert_eq!((devices.len(), parallel.given_up().len()), (3 - faults.len(), faults.len()));
    }
}

/// Whatever call of whatever device fails, or never ends: the others do its batches, and it is never asked again.
#[test]
fn a_device_that_fails_is_done_without() {
    let mut hit = 0;
    for depths in [&[2, 2][..], &[1, 1, 1], &[1, 3]] {
        let calls =
            [Call::Open, Call::Submit, Call::Collect].into_iter().flat_map(|call| (1..=6).map(move |n| (call, n)));
        for (device, (call, number)) in
            (0..depths.len()).flat_map(|device| calls.clone().map(move |call| (device, call)))
        {
            for effect in [Effect::Fails, Effect::Hangs] {
                let fault = Fault { device, call, number, effect };
                let parallel = parallel(depths, &[fault]);
                let mut pipeline = open(&parallel);
                for first in [0, 50] {
                    let ran = run(&mut *pipeline, first, first + 11);
                    assert!(ran.result.is_ok() && ran.finished == 11, "{fault:?}: {:?}", ran.result);
                }
                // The next pipeline does without it from the start.
                assert_eq!(run(&mut *open(&parallel), 0, 5).finished, 5, "{fault:?}");
                let given_up = parallel.given_up();
                let description = parallel.description();
                if let [reason] = &given_up[..] {
                    hit += 1;
                    let name = format!("fake:{device}");
                    assert!(reason.starts_with(&name) && !reason.contains("run the rest again"), "{reason}");
                    assert!(description.contains(&format!("{name} until it was given up")), "{description}");
                }
                assert_eq!(description.matches(", made up").count(), 1, "{description}");
            }
        }
    }
    assert!(hit > 100, "{hit} of the faults were hit");
}

/// When the last one fails too, its error comes out, and what is under way can be had back; nothing is lost or out of order.
#[test]
fn all_devices_fail() {
    let calls = || [Call::Submit, Call::Collect].into_iter().flat_map(|call| (1..=5).map(move |number| (call, number)));
    let mut failed = 0;
    for ((first, first_number), (second, second_number)) in calls().flat_map(|a| calls().map(move |b| (a, b))) {
        for effects in
            [[Effect::Fails; 2], [Effect::Hangs, Effect::Fails], [Effect::Fails, Effect::Hangs], [Effect::Hangs; 2]]
        {
            let faults = [(first, first_number), (second, second_number)].into_iter().zip(effects).enumerate();
            let faults: Vec<Fault> =
                faults.map(|(device, ((call, number), effect))| Fault { device, call, number, effect }).collect();
            let parallel = parallel(&[2, 2], &faults);
            let mut pipeline = open(&parallel);
            let ran = run(&mut *pipeline, 0, 9);
            let given_up = parallel.given_up();
            match ran.result {
                Ok(()) => assert!(ran.finished == 9 && given_up.len() < 2, "{faults:?}"),
                Err(Error::DeviceLost(reason)) => {
                    failed += 1;
                    assert_eq!(given_up.len(), 1, "{faults:?}");
                    let last = if given_up[0].starts_with("fake:0") { 1 } else { 0 };
                    assert!(reason.starts_with(&format!("fake:{last} ")), "{faults:?}: {reason}");
                    match effects[last] {
                        Effect::Hangs => assert!(pipeline.abandon().is_empty(), "{faults:?}"),
                        _ => abandon(&mut *pipeline, ran.finished..ran.finished + ran.under_way),
                    }
                }
                Err(error) => panic!("{faults:?}: {error}"),
            }
        }
    }
    assert!(failed > 100, "{failed} runs");
}

/// No device is to blame for a batch that is too large for it: everything comes back, for a smaller one.
#[test]
fn memory_that_is_short_gives_everything_back() {
    for (device, call, number) in [0, 1].into_iter().flat_map(|device| {
        [Call::Submit, Call::Collect]
            .into_iter()
            .flat_map(move |call| (1..=4).map(move |number| (device, call, number)))
    }) {
        let fault = Fault { device, call, number, effect: Effect::LacksMemory };
        let parallel = parallel(&[2, 2], &[fault]);
        let mut pipeline = open(&parallel);
        let ran = run(&mut *pipeline, 0, 12);
        assert!(matches!(ran.result, Err(Error::DeviceMemory(_))), "{fault:?}");
        abandon(&mut *pipeline, ran.finished..ran.finished + ran.under_way);
        let ran = run(&mut *pipeline, 0, 12);
        assert!(ran.result.is_ok() && ran.finished == 12 && parallel.given_up().is_empty(), "{fault:?}");
    }
    let short = Fault { device: 1, call: Call::Open, number: 1, effect: Effect::LacksMemory };
    let error = parallel(&[2, 2], &[short]).pipeline(plan(), 1, Score::Prob).err().unwrap();
    assert!(matches!(error, Error::DeviceMemory(_)));
}

/// A device that is found to hang only when its batches are taken back is given up as well.
#[test]
fn a_device_that_hangs_when_it_is_asked_for_its_batches() {
    let faults = [
        Fault { device: 0, call: Call::Submit, number: 2, effect: Effect::LacksMemory },
        Fault { device: 1, call: Call::Abandon, number: 1, effect: Effect::Hangs },
    ];
    let parallel = parallel(&[2, 2], &faults);
    let mut pipeline = open(&parallel);
    let ran = run(&mut *pipeline, 0, 9);
    assert!(matches!(ran.result, Err(Error::DeviceMemory(_))) && (ran.finished, ran.under_way) == (0, 3));
    abandon(&mut *pipeline, 0..3);
    assert!(parallel.given_up()[0].starts_with("fake:1 "));
    assert_eq!(run(&mut *pipeline, 0, 9).finished, 9);
}

/// What is no batch is refused before any device sees it; too many at once are a mistake of the caller's.
#[test]
fn batches_that_do_not_fit_are_refused() {
    let parallel = parallel(&[1, 1], &[]);
    let mut pipeline = open(&parallel);
    let image = batch(0).len() / IMAGES;
    for bytes in [0, image - 1, (IMAGES + 1) * image] {
        assert!(matches!(pipeline.submit(Pixels::zeroed(bytes).unwrap()), Err(Error::Usage(_))), "{bytes}");
    }
    assert_eq!(run(&mut *pipeline, 0, 5).finished, 5);
    pipeline.submit(batch(0)).unwrap();
    pipeline.submit(batch(1)).unwrap();
    let third = std::panic::AssertUnwindSafe(|| pipeline.submit(batch(2)));
    assert!(std::panic::catch_unwind(third).is_err());
}

/// What is no pipeline is the first device's that works.
#[test]
fn sessions_and_memory_are_of_the_first_device_that_works() {
    let fails = Fault { device: 0, call: Call::Session, number: 1, effect: Effect::Fails };
    let parallel = parallel(&[2, 2], &[fails]);
    let places = |holdings: Vec<alexnet::Holding>| holdings.into_iter().map(|h| h.place).collect::<Vec<_>>();
    assert_eq!(places(parallel.holdings(plan()).unwrap()), ["fake:0", "fake:1"]);
    assert_eq!(parallel.session(plan()).err().unwrap().to_string(), "a session of fake:1");
    assert_eq!(places(parallel.holdings(plan()).unwrap()), ["fake:1"]);
    assert_eq!(parallel.pixels(7).unwrap().len(), 7);
    assert_eq!(parallel.given_up().len(), 1);
}

/// On two CPUs, so to speak: real batches through the real thing.
#[test]
fn two_real_devices_compute_what_one_computes() {
    let weights = alexnet::demo_checkpoint().into_weights(alexnet::net::Variant::by_name("torchvision").unwrap(), 71);
    let weights = weights.unwrap();
    let plan = alexnet::plan::Plan::new(weights.network(), 2, &[]).unwrap();
    let device = || crate::device::backend(CPU, weights.clone());
    let run = |backend: &dyn Backend| {
        let mut pipeline = backend.pipeline(plan.clone(), 3, Score::Prob).unwrap();
        let mut scored = vec![];
        let depth = pipeline.depth();
        for number in 0..5 + depth {
            if number >= depth {
                scored.extend(pipeline.collect().unwrap().unwrap().scored);
            }
            if number < 5 {
                let mut pixels = backend.pixels(2 * weights.network().input().len()).unwrap();
                pixels.copy_from_slice(
                    &[0, 1].map(|n| alexnet::weights::seeded::picture(3, 2 * number + n, 71)).concat(),
                );
                pipeline.submit(pixels).unwrap();
            }
        }
        scored
    };
    let two = Parallel::new(vec![("a CPU".into(), device()), ("another".into(), device())]);
    assert_eq!(run(&two), run(&*device()));
}

/// Both devices of a run, each with the same number of batches.
const TWO: Case = Case { device: "cuda:0,1", ..FOUR_BATCHES };
/// As many as give each device's slots a second batch.
const MANY: Case = Case { batch: 1, images: 7, ..TWO };

/// Two devices give the bytes of one with the same batch size.
fn rows_of_one(two: Case) {
    let (found, one) = (two.whole(), Case { device: "cuda", ..two }.whole());
    assert!(found.csv == one.csv, "{found:?}, expected {one:?}");
    assert!(found.stderr.contains("on cuda:0 (") && found.stderr.contains(", cuda:1 ("), "{found:?}");
    assert!(found.calls["copy"] > one.calls["copy"] + 10, "the second has weights as well: {found:?}");
}

#[test]
fn two_devices_give_the_rows_of_one() {
    rows_of_one(MANY);
}

#[test]
#[ignore = "twenty seconds, run by .ci/run"]
fn two_devices_give_the_rows_of_one_on_late_streams() {
    for streams in ["deferred", "overtaking"] {
        let overflows = Case { network: Weights::Overflowing, images: 3, ..TWO };
        for two in [MANY, TWO, Case { batch: 4, ..TWO }, Case { batch: 8, ..TWO }, overflows] {
            rows_of_one(Case { streams, ..two });
        }
    }
}

/// The device that the run gave up.
fn given_up(ended: &Ended) -> Option<&'static str> {
    let told = |device: &&str| {
        let begin = format!("alexnet: {device} (");
        ended.stderr.lines().any(|line| line.starts_with(&begin) && line.contains("is given up, and its images go"))
    };
    ["cuda:0", "cuda:1"].into_iter().find(told)
}

/// A call that fails while weights are uploaded ends the run before it begins; one that fails later costs its device, whichever
/// it is, and no row. Memory that is short halves the batch as on one device.
fn calls_that_fail(choose: impl Fn(Vec<String>) -> Vec<String>) -> usize {
    let whole = TWO.whole();
    let mut faults = vec![];
    for (kind, code) in [("alloc", 2), ("graph", 2), ("alloc", 700), ("graph", 719), ("copy", 700), ("launch", 719)] {
        faults.extend(every_call(&whole, &[kind]).iter().map(|call| format!("{call}:{code}")));
    }
    for (kind, code) in [("sync", 716), ("fill", 719), ("wait", 719), ("record", 719)] {
        faults.extend(every_call(&whole, &[kind]).iter().map(|call| format!("{call}:{code}")));
    }
    let all_given_up = Mutex::new(BTreeSet::new());
    each(&choose(faults), |fault| {
        let ended = TWO.with(fault);
        let finished = ended.finished(&whole);
        assert_eq!(finished, if ended.code == 0 { TWO.images } else { 0 }, "{ended:?}");
        let code = fault.rsplit_once(':').unwrap().1;
        let cause = format!("CUDA error {code} while ");
        let names = |parts: &[&str]| {
            for part in parts {
                assert!(ended.stderr.contains(part), "'{part}' is not in {}", ended.stderr);
            }
        };
        match (code, ended.code) {
            ("2", 0) => names(&[&cause, "going on with 1"]),
            ("2", 5) => names(&[&cause, "out of memory", "--batch-size"]),
            (_, 0) => {
                if let Some(device) = given_up(&ended) {
                    names(&[&cause, ") until it was given up"]);
                    all_given_up.lock().unwrap().insert(device);
                }
                // What fails after the last row costs nothing.
                assert!(!ended.stderr.contains("error:"), "{ended:?}");
            }
            (_, 5) => names(&[&cause, "--device cpu"]),
            _ => panic!("{ended:?}"),
        }
    });
    all_given_up.into_inner().unwrap().len()
}

#[test]
fn some_calls_that_fail() {
    calls_that_fail(|all| all.into_iter().step_by(61).collect());
}

#[test]
#[ignore = "a process for every call of a run, run by .ci/run"]
fn every_call_that_fails() {
    assert_eq!(calls_that_fail(|all| all), 2, "either device was given up");
}

/// The other device does the work of one that never ends, from the pixels that it may still be reading.
fn work_that_never_ends(pools: &str, choose: impl Fn(Vec<String>) -> Vec<String>) {
    let whole = TWO.whole();
    let all_given_up = Mutex::new(BTreeSet::new());
    each(&choose(every_call(&whole, &["launch", "graph"])), |call| {
        let fault = format!("{call}:hang");
        let ended = TWO.predict(&["--patience", "0.5"], &[("CUEMU_FAULT", &fault), ("CUEMU_POOLS", pools)]);
        assert_eq!((ended.code, ended.finished(&whole)), (0, TWO.images), "{ended:?}");
        // Calls that make graphs start nothing that could hang.
        assert!(call.starts_with("graph") || ended.stderr.contains("within 0.5 s"), "{ended:?}");
        all_given_up.lock().unwrap().extend(given_up(&ended));
    });
    assert_eq!(all_given_up.into_inner().unwrap().len(), 2, "either device was given up");
}

/// A launch of each device.
#[test]
fn some_work_that_never_ends() {
    work_that_never_ends("1", |all| {
        let launches = all.iter().filter(|call| call.starts_with("launch")).count();
        vec![all[launches / 4].clone(), all[launches / 2].clone()]
    });
}

/// Without memory pools every call that frees memory waits for its device.
#[test]
#[ignore = "a minute, run by .ci/run"]
fn any_work_that_never_ends() {
    work_that_never_ends("1", |all| all.into_iter().step_by(5).collect());
    work_that_never_ends("0", |all| all.into_iter().step_by(7).collect());
}

/// The last device's failure ends the run as that of a single one does: what was finished is out.
#[test]
fn both_devices_fail() {
    let whole = TWO.whole();
    let ended = TWO.with(&format!("record:{}+:719", whole.calls["record"] - 2));
    assert_eq!(ended.code, 7, "{ended:?}");
    let finished = ended.finished(&whole);
    assert!(finished < TWO.images && finished.is_multiple_of(TWO.batch), "{ended:?}");
    let told = ["is given up", "what was finished before is good, run the rest again"];
    assert!(told.iter().all(|part| ended.stderr.contains(part)), "{ended:?}");
    // Unless it fails before anything ran.
    let ended = TWO.with("launch:1+:719");
    assert_eq!((ended.code, ended.finished(&whole)), (7, 0), "{ended:?}");
}

/// Figures of one device are not those of two.
#[test]
#[ignore = "ten seconds, run by .ci/run"]
fn compare_needs_every_device() {
    let arguments = ["compare", "--checkpoint", "samples/shapes.safetensors", "--layouts", "data-parallel", "-b", "1"];
    let arguments = [&arguments[..], &["--duration", "0.01", "--device", "cuda:0,1"]].concat();
    let ended = alexnet(&arguments, "", &[("CUEMU_FAULT", "graph:4:719@1")]);
    assert_eq!((ended.code, &ended.csv[..]), (7, ""), "{ended:?}");
    assert!(ended.stderr.contains("data-parallel cannot be measured without it"), "{ended:?}");
}

#[test]
#[ignore = "ten seconds, run by .ci/run"]
fn bench_on_two_devices() {
    let arguments = ["bench", "samples/shapes/star", "--checkpoint", "samples/shapes.safetensors", "-b", "2"];
    let arguments =
        [&arguments[..], &["--duration", "0.1", "--json", "--device", "cuda:0,1", "--input-size", "71"]].concat();
    for fault in ["", "graph:11:719"] {
        let ended = alexnet(&arguments, "", &[("CUEMU_FAULT", fault)]);
        assert_eq!(ended.code, 0, "{ended:?}");
        assert_eq!(ended.stderr.contains("is given up"), !fault.is_empty(), "{ended:?}");
        let report: serde_json::Value = serde_json::from_str(&ended.csv).unwrap();
        assert_eq!(report["machine"]["device"].as_str().unwrap().contains("until it was given up"), !fault.is_empty());
        let modes: Vec<_> = report["results"].as_array().unwrap().iter().map(|result| &result["mode"]).collect();
        assert_eq!(modes, ["latency", "compute", "copied", "decode", "end_to_end"]);
    }
}
