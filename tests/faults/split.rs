//! The same of a network's two towers, on two streams of a device and on two devices.

use std::sync::Mutex;

use super::{Case, FOUR_BATCHES, Weights, calls_that_fail, each, every_call, every_call_on};

/// Each of two slots runs a graph twice, in either order of its branches; the first and the last batch run kernel by kernel.
const TWO_STREAM: Case = Case { split: Some("two-stream"), images: 11, ..FOUR_BATCHES };
/// Kernel by kernel.
const TWO_GPU: Case = Case { device: "cuda:0,1", split: Some("two-gpu"), ..FOUR_BATCHES };
/// By way of the host's memory.
const NO_PEER: Case = Case { peer: false, ..TWO_GPU };

/// Every class's logit, for what changes no label.
const LOGITS: [&str; 4] = ["--topk", "10", "--output-type", "logit"];
/// Tensors that are uploaded, which the unsplit network's tests are about: a filter and a bias a layer, and conv1's filter
/// twice; of fc8 to the first tower alone.
const UPLOADS: usize = 2 * 17 - 2;

/// Work is done as late as it may be, and so the towers' rows show that what each needs is there: the memory that the other
/// tower writes to before its own comes to it, too.
#[test]
fn late_streams() {
    let whole = FOUR_BATCHES.whole();
    let layouts = [Case { images: 7, ..TWO_STREAM }, TWO_GPU, NO_PEER];
    for streams in ["deferred", "overtaking"] {
        for case in layouts {
            assert_eq!(Case { streams, ..case }.whole().csv, whole.csv, "{case:?}, {streams}");
        }
    }
}

#[test]
fn some_calls_that_fail() {
    for case in [Case { images: 7, ..TWO_STREAM }, TWO_GPU, NO_PEER] {
        calls_that_fail(case, |all| {
            let step = all.len().div_ceil(4);
            all.into_iter().step_by(step).collect()
        });
    }
}

/// But for most of the polls, which all look alike. Two devices run every batch kernel by kernel: of three, each call fails, and
/// one slot is used twice.
#[test]
#[ignore = "a process for every call of three runs, run by .ci/run"]
fn every_call_that_fails() {
    for case in [Case { images: 7, ..TWO_STREAM }, Case { images: 5, ..TWO_GPU }, Case { images: 5, ..NO_PEER }] {
        calls_that_fail(case, |all| {
            let (polls, others): (Vec<_>, Vec<_>) = all.into_iter().partition(|fault| fault.starts_with("sync"));
            others.into_iter().chain(polls.into_iter().step_by(9)).collect()
        });
    }
}

/// A device that hangs is given up, whichever it is, and nothing waits for it or for the other, which waits for it.
fn work_that_never_ends(case: Case, pools: &str, choose: impl Fn(Vec<String>) -> Vec<String>) {
    let whole = case.whole();
    let calls = |kind| every_call_on(case.devices(), &whole, kind, 0);
    let faults: Vec<String> = ["launch", "graph"].into_iter().flat_map(calls).collect();
    let most = Mutex::new(0);
    each(&choose(faults), |fault| {
        let hang = fault.replace(":0@", ":hang@");
        let ended = case.predict(&["--patience", "1"], &[("CUEMU_FAULT", &hang), ("CUEMU_POOLS", pools)]);
        let finished = ended.finished(&whole);
        if ended.code == 0 && fault.starts_with("graph") {
            return; // it starts nothing that could hang
        }
        assert!(ended.code == 7 && finished.is_multiple_of(case.batch) && finished < case.images, "{ended:?}");
        assert!(ended.stderr.contains("within 1 s") && ended.stderr.contains("--patience"), "{ended:?}");
        let mut most = most.lock().unwrap();
        *most = finished.max(*most);
    });
    assert!(*most.lock().unwrap() > 0, "something was finished before");
}

/// A late launch of each device, without memory pools, where every call that frees memory waits for its device.
#[test]
fn a_late_launch_of_either_device_that_never_ends() {
    work_that_never_ends(TWO_GPU, "0", |all| {
        let of =
            |device: &str| all.iter().rfind(|fault| fault.starts_with("launch") && fault.ends_with(device)).cloned();
        ["@0", "@1"].into_iter().filter_map(of).collect()
    });
}

#[test]
#[ignore = "a minute, run by .ci/run"]
fn any_work_that_never_ends() {
    for (streams, pools) in [("eager", "1"), ("deferred", "1"), ("eager", "0")] {
        for case in [TWO_STREAM, TWO_GPU, NO_PEER] {
            work_that_never_ends(Case { streams, ..case }, pools, |all| all.into_iter().step_by(23).collect());
        }
    }
}

/// With any one call of a batch forgotten, the output differs or the device reports a fault, but for `not_missed`.
fn forgotten_calls(case: Case, not_missed: &[&str], choose: impl Fn(Vec<String>) -> Vec<String>) {
    let late = ["deferred", "overtaking"].map(|streams| Case { streams, ..case });
    let whole = late[0].predict(&LOGITS, &[]);
    assert_eq!(whole.code, 0, "{whole:?}");
    let calls = every_call(&whole, &["wait", "record", "copy"]).into_iter().filter(|call| {
        let (kind, number) = call.split_once(':').unwrap();
        kind == "wait" || number.parse::<usize>().unwrap() > UPLOADS
    });
    each(&choose(calls.collect()), |call| {
        let missed = late.iter().any(|case| {
            let ended = case.predict(&LOGITS, &[("CUEMU_FAULT", &format!("{call}:skip"))]);
            ended.code != 0 || ended.csv != whole.csv
        });
        let expected = !not_missed.contains(&call);
        assert!(missed == expected, "{}", if missed { "it is missed" } else { "nobody misses it" });
    });
}

/// Calls of [`TWO_GPU`] that it can do without: the n-th of four batches begins with the 16th wait and 17th record after that of
/// the one before.
///
/// Tower 1 starts a batch when tower 0 is done with the one before, or it may give it something while the memory is still in
/// use: in the demo it is not, but see [`towers_begin_together`]. Pixels of device 1 are cleared before anything is copied
/// there without the event, since an emulated stream that is ahead is ahead of its copies, too.
const NOT_MISSED: [&str; 8] =
    ["wait:3", "record:35", "wait:22", "wait:38", "wait:54", "record:55", "record:72", "record:89"];

/// As [`NOT_MISSED`], but that no memory has to wait for the other device, and that tower 1 may begin its first batch, too: it
/// writes to no memory of the other device, and to the host's only after tower 0 has given it something of the same batch.
const NOT_MISSED_WITHOUT_PEER: [&str; 10] = [
    "wait:2",
    "record:34",
    "wait:5",
    "wait:21",
    "wait:37",
    "wait:53",
    "record:37",
    "record:54",
    "record:71",
    "record:88",
];

/// Every wait, every third record and copy.
fn waits_and_some_others(all: Vec<String>) -> Vec<String> {
    let chosen = all.into_iter().enumerate().filter(|(index, call)| call.starts_with("wait") || index % 3 == 0);
    chosen.map(|(_, call)| call).collect()
}

#[test]
#[ignore = "a process for every such call of a run, run by .ci/run"]
fn forgotten_calls_of_two_streams() {
    forgotten_calls(TWO_STREAM, &[], |all| all);
}

/// Whose towers go apart for longer.
#[test]
#[ignore = "a minute, run by .ci/run"]
fn forgotten_calls_of_the_papers_network() {
    forgotten_calls(Case { network: Weights::Paper, ..TWO_STREAM }, &[], |all| all.into_iter().step_by(3).collect());
}

#[test]
#[ignore = "a process for every such call of a run, run by .ci/run"]
fn forgotten_calls_of_two_devices() {
    forgotten_calls(TWO_GPU, &NOT_MISSED, waits_and_some_others);
}

#[test]
#[ignore = "a process for every such call of a run, run by .ci/run"]
fn forgotten_calls_without_peer_access() {
    forgotten_calls(NO_PEER, &NOT_MISSED_WITHOUT_PEER, waits_and_some_others);
}

/// Of three batches.
#[test]
fn some_forgotten_calls_of_two_devices() {
    let case = Case { images: 5, ..TWO_GPU };
    forgotten_calls(case, &[], |_| ["wait:7", "wait:8", "record:37", "copy:36"].map(String::from).into());
}

/// In a network whose largest buffer is one that both towers write to, what comes before fc8 lies where tower 1 gives first.
#[test]
#[ignore = "ten seconds, run by .ci/run"]
fn towers_begin_together() {
    let case = Case { network: Weights::Caffe, images: 5, ..TWO_GPU };
    // Two waits and a record come before, 14 and 15 a batch.
    forgotten_calls(case, &[], |_| ["wait:20", "record:53"].map(String::from).into());
}
