use std::collections::BTreeMap;
use std::time::Duration;

use alexnet::record::{ColdStart, PeerStart, Subject, Windows};
use alexnet::statistics::Spread;
use alexnet::{BatchTimes, Interval};
use serde_json::Value;

use super::steps::Steps;
use super::*;
use crate::cli::samples::names;

fn machine(gpus: &[&str]) -> Machine {
    Machine {
        date: "2026-11-29T22:21:16Z".into(),
        program: "alexnet 0.1.0".into(),
        commit: None,
        system: "Linux 6".into(),
        cpu: Some("a CPU".into()),
        cores: 2,
        device: "cuda:0 (a GPU), float16".into(),
        gpus: gpus.iter().map(|gpu| gpu.to_string()).collect(),
        driver: None,
        clocks: None,
        versions: BTreeMap::new(),
    }
}

fn times(enqueue: u64, copy_in: u64, compute: u64, copy_out: u64) -> BatchTimes {
    let [a, b, c] = [copy_in, copy_in + compute, copy_in + compute + copy_out].map(Duration::from_millis);
    BatchTimes {
        enqueue: Duration::from_millis(enqueue),
        copy_in: Some(Interval { begin: Duration::ZERO, end: a }),
        compute: Interval { begin: a, end: b },
        copy_out: Some(Interval { begin: b, end: c }),
    }
}

/// Twelve batches of four images, of which the last has two that could not be decoded, in 40 to 62 ms each.
fn steps() -> Steps {
    Steps {
        seconds: (0..12).map(|step| 0.04 + 0.002 * f64::from(step)).collect(),
        images: (0..12).map(|step| if step == 11 { 2 } else { 4 }).collect(),
        failed: 2,
        elapsed: Duration::from_millis(640),
        clocked: vec![times(9, 1, 10, 4), times(9, 2, 20, 5), times(9, 3, 9, 6)],
    }
}

/// How to measure, with these percentiles of all times.
fn measuring(percentile: &[f64], step_times: bool) -> Measuring {
    let [warmup, duration] = [200, 3000].map(Duration::from_millis);
    Measuring { warmup, duration, iterations: 10, percentile: percentile.to_vec(), step_times }
}

fn bench(results: Vec<BenchResult>, gpus: &[&str]) -> Bench {
    let network =
        alexnet::net::Network::published(alexnet::net::Variant::by_name("torchvision").unwrap(), 1000).unwrap();
    Bench {
        machine: machine(gpus),
        subject: Subject::of(&network, "seed:0", 3),
        inputs: Some(Inputs { names: vec!["a.jpg".into()], exif: "ignore".into(), decoder: "mozjpeg".into() }),
        warm_up_s: 0.2,
        duration_s: 3.0,
        iterations: 10,
        results,
        cold_start: Some(ColdStart {
            first_prediction_ms: Spread::with(vec![100.0, 300.0], &[99.9]),
            processes: 2,
            how: "somehow".into(),
            peers: vec![PeerStart {
                program: "pytorch".into(),
                first_prediction_ms: Spread::with(vec![900.0], &[99.9]),
                ratio: 0.25,
            }],
        }),
        notes: vec![],
    }
}

fn result() -> BenchResult {
    steps().result(Mode::EndToEnd, Precision::Float16, 4, &measuring(&[50.0, 99.9], false))
}

#[test]
fn figures_of_steps() {
    let found = result();
    assert_eq!((found.steps, found.images, found.failed), (12, 46, 2));
    assert!((found.samples_per_sec - 46.0 / 0.64).abs() < 1e-9 && (found.step_time_ms - 51.0).abs() < 1e-9);
    let medians = [&found.enqueue_ms, &found.h2d_ms, &found.compute_ms, &found.d2h_ms];
    assert_eq!(medians.map(|part| part.as_ref().unwrap().median), [9.0, 2.0, 10.0, 5.0]);
    assert_eq!(found.latency_ms.percentiles.keys().collect::<Vec<_>>(), ["p50", "p99.9"]);
    // On a CPU nothing is queued and nothing copied.
    let clocked = vec![BatchTimes { copy_in: None, copy_out: None, ..times(9, 1, 10, 4) }];
    let cpu = Steps { clocked, ..steps() }.result(Mode::Compute, Precision::Float32, 4, &measuring(&[], true));
    assert_eq!((cpu.enqueue_ms, cpu.h2d_ms, cpu.d2h_ms), (None, None, None));
    assert_eq!(cpu.compute_ms.unwrap().median, 10.0);
    // Every step's time is kept where that is asked for.
    let kept = cpu.step_times_ms.unwrap();
    assert_eq!((kept.len(), kept[0], found.step_times_ms), (12, 40.0, None));
    if cfg!(target_os = "linux") {
        // This test is a program of megabytes.
        assert!(cpu.peak_resident_bytes.unwrap() > 1 << 20);
    }
}

/// Whoever reads the JSON relies on these names.
#[test]
fn the_json_has_these_names() {
    // Figures that JSON gives back to the last bit.
    let windows = Some(Windows { samples_per_sec: [90.5, 80.25, 70.0], stable: false });
    let kept = BenchResult { windows, sequential_share: Some(0.5), step_times_ms: Some(vec![40.0]), ..result() };
    let record = Record::Bench(bench(vec![kept], &["a GPU"]));
    let json: Value = serde_json::from_str(&record.json()).unwrap();
    assert_eq!((&json["schema"], &json["results"][0]["mode"]), (&"alexnet.bench.1".into(), &"end_to_end".into()));
    let spread = |name: &str, percentiles: &str| {
        ["min", "mean", "median", "max", "cv"]
            .into_iter()
            .chain(percentiles.split_whitespace())
            .map(|figure| format!("{name}.{figure} "))
            .collect::<String>()
    };
    let [latency, enqueue, h2d, compute, d2h] = ["latency", "enqueue", "h2d", "compute", "d2h"]
        .map(|name| spread(&format!("results[].{name}_ms"), "p50 p99.9"));
    let expected = format!(
        "schema machine.date machine.program machine.commit machine.system machine.cpu machine.cores machine.device \
         machine.gpus[] machine.driver machine.clocks model checkpoint input_size classes param_count gmacs macts split fc \
         deterministic threads inputs.names[] inputs.exif inputs.decoder warm_up_s duration_s iterations results[].program \
         results[].configuration results[].mode results[].precision results[].batch_size results[].samples_per_sec \
         results[].step_time_ms {latency} {enqueue} {h2d} {compute} {d2h} results[].windows.samples_per_sec[] \
         results[].windows.stable results[].steps results[].images results[].failed results[].sequential_share \
         results[].peak_resident_bytes results[].step_times_ms[] {} cold_start.processes cold_start.how \
         cold_start.peers[].program {} cold_start.peers[].ratio",
        spread("cold_start.first_prediction_ms", "p99.9"),
        spread("cold_start.peers[].first_prediction_ms", "p99.9")
    );
    assert_eq!(names(&json), expected.split_whitespace().collect::<Vec<_>>());
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("bench.json");
    std::fs::write(&file, record.json()).unwrap();
    assert_eq!(Record::read(&file).unwrap(), record);
}

/// One without the fields that came later, as it was written then.
#[test]
fn old_records_are_read() {
    let mut json: Value = serde_json::from_str(&Record::Bench(bench(vec![result()], &[])).json()).unwrap();
    let without = |value: &mut Value, names: &[&str]| {
        names.iter().all(|name| value.as_object_mut().unwrap().remove(*name).is_some())
    };
    assert!(without(&mut json["results"][0], &["sequential_share", "peak_resident_bytes", "step_times_ms"]));
    assert!(without(&mut json["cold_start"], &["peers"]));
    let Record::Bench(found) = serde_json::from_value(json).unwrap() else { panic!("another record") };
    let BenchResult { sequential_share, peak_resident_bytes, step_times_ms, .. } = &found.results[0];
    assert_eq!((sequential_share, peak_resident_bytes, step_times_ms), (&None, &None, &None));
    assert_eq!(found.cold_start.unwrap().peers, []);
}

#[test]
fn csv_begins_with_timms_columns() {
    let known = || BenchResult { sequential_share: Some(0.75), peak_resident_bytes: Some(4096), ..result() };
    let (ours, peer) = (bench(vec![known(), known()], &[]), bench(vec![other("pytorch", 90.0)], &[]));
    let csv = csv::csv([&ours, &peer].into_iter(), &[50.0, 99.9]);
    let lines: Vec<&str> = csv.lines().collect();
    assert_eq!(
        lines[0],
        "samples_per_sec,step_time,batch_size,img_size,param_count,gmacs,macts,program,configuration,model,mode,precision,\
         latency_min_ms,latency_median_ms,latency_p50_ms,latency_p99.9_ms,latency_max_ms,latency_cv,enqueue_median_ms,\
         h2d_median_ms,compute_median_ms,d2h_median_ms,stable,steps,images,failed,sequential_share,peak_resident_bytes,device"
    );
    assert!(lines[1].contains(",4,224,61.10,0.71,0.49,alexnet,,torchvision,end_to_end,float16,40,"), "{}", lines[1]);
    assert!(lines[1].contains(",9,2,10,5,false,12,46,2,0.75,4096,\"cuda:0 (a GPU), float16\""), "{}", lines[1]);
    assert!(lines[3].starts_with("90,") && lines[3].contains(",pytorch,eager,"), "{}", lines[3]);
    assert_eq!(lines.len(), 4);
}

fn other(program: &str, samples_per_sec: f64) -> BenchResult {
    BenchResult { program: program.into(), configuration: Some("eager".into()), samples_per_sec, ..result() }
}

#[test]
fn peers_stand_beside_this_run() {
    let ours = bench(vec![BenchResult { samples_per_sec: 100.0, ..result() }], &["a GPU"]);
    let narrow = BenchResult { batch_size: 5, ..other("narrow", 1.0) };
    let peers = [bench(vec![other("slow", 80.0), narrow], &["a GPU"]), bench(vec![other("fast", 125.0)], &[])];
    let text = table::table([&ours, &peers[0], &peers[1]].into_iter(), &[50.0]);
    let (_, beside) = text.split_once("ours/theirs\n").expect("there are peers");
    let rows: Vec<Vec<&str>> = beside.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(rows[0], ["fast", "(eager)", "125.0", "51.000", "0.80"]);
    assert_eq!(rows[1], ["alexnet", "100.0", "51.000", "this", "run"]);
    assert_eq!(rows[2], ["slow", "(eager)", "80.0", "51.000", "1.25"]);
    assert!(rows.len() == 3 && text.contains("float16, end to end, batch 4"), "{text}");
    assert!(
        text.contains("cold start: 200.0 ms to the first prediction (100.0 to 300.0, 2 processes)\nsomehow"),
        "{text}"
    );
    // None measured the same.
    let text = table::table([&ours, &bench(vec![], &[])].into_iter(), &[50.0]);
    assert!(
        text.ends_with("no peer has a result of the same mode, precision and batch size as one of these\n"),
        "{text}"
    );
    assert!(!table::table([&ours].into_iter(), &[50.0]).contains("peer"));
}

#[test]
fn warnings_say_what_to_mistrust() {
    let mut ours = bench(vec![result()], &["a GPU"]);
    let [unsteady, not_stable, enqueue] = &warnings(&ours, &[])[..] else { panic!("{:?}", warnings(&ours, &[])) };
    assert!(unsteady.starts_with("float16, end to end, batch 4: unsteady, the deviation is 13.5 %"), "{unsteady}");
    assert!(not_stable.contains("not stable") && not_stable.contains("more than 10 %"), "{not_stable}");
    assert!(enqueue.contains("9.000 ms to queue what the device computes in 10.000 ms"), "{enqueue}");
    let steady = Steps { seconds: vec![0.05; 12], images: vec![4; 12], clocked: vec![times(8, 1, 10, 1)], ..steps() };
    ours.results = vec![steady.result(Mode::Copied, Precision::Float32, 4, &measuring(&[], false))];
    assert_eq!(ours.results[0].windows, Some(Windows { samples_per_sec: [80.0; 3], stable: true }));
    assert_eq!(warnings(&ours, &[]), [""; 0]);
    // Peers that measured something else.
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("peer.json");
    let mut peer = bench(vec![], &[]);
    (peer.subject.threads, peer.subject.input_size) = (7, 127);
    std::fs::write(&file, Record::Bench(peer).json()).unwrap();
    let peers = peers::read(&[file.clone(), file]).unwrap();
    let found = warnings(&ours, &peers[..1]);
    let ends = [
        "measured on a CPU, this run a GPU",
        "at an input size of 127, this run 224",
        "with CPU threads: 7, this run 3",
    ];
    assert!(found.len() == 3 && found.iter().zip(ends).all(|(found, end)| found.ends_with(end)), "{found:?}");
    assert_eq!(warnings(&ours, &peers).len(), 6);
    // What computes on a GPU takes no notice of the host's threads.
    let mut peer = bench(vec![], &["a GPU"]);
    peer.subject.threads = 7;
    let file = folder.path().join("gpu.json");
    std::fs::write(&file, Record::Bench(peer).json()).unwrap();
    assert_eq!(warnings(&ours, &peers::read(&[file]).unwrap()), [""; 0]);
}

#[test]
fn percentiles_are_within_0_and_100() {
    assert_eq!(percent("99.9"), Ok(99.9));
    for text in ["0", "100", "-1", "NaN", "inf", "", "p90"] {
        assert!(percent(text).is_err(), "{text}");
    }
}
