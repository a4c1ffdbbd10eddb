//! Records for tests of tables, pictures and pages: made up, of the size that real ones have. No device was measured.

use std::collections::BTreeMap;

use alexnet::record::*;
use alexnet::statistics::{SpeedUp, Spread};
use serde_json::Value;

/// A device whose name has to be escaped.
pub const DEVICE: &str = "cuda:0, a made-up GPU <sample> & \"nothing\" measured (compute capability 9.0)";

/// Every kind of record.
pub fn records() -> Vec<Record> {
    let peers = [("pytorch", Some("eager, channels_last"), 0.62), ("onnxruntime", None, 0.8)];
    let benches =
        peers.iter().map(|&(program, configuration, speed)| Record::Bench(bench(program, configuration, speed)));
    let own = Record::Bench(bench("alexnet", None, 1.0));
    let split = Record::Profile(profile(true));
    let records = [Record::Profile(profile(false)), split, Record::Compare(compare()), Record::Kernels(kernels())];
    [own].into_iter().chain(benches).chain(records).collect()
}

/// The names of all figures and texts in `value`, with `[]` for a list's first element: whoever reads JSON relies on them.
pub fn names(value: &Value) -> Vec<String> {
    fn collect(value: &Value, path: &str, names: &mut Vec<String>) {
        match value {
            Value::Object(fields) => {
                fields.iter().for_each(|(name, value)| collect(value, &format!("{path}.{name}"), names));
            }
            Value::Array(values) => values.iter().take(1).for_each(|value| collect(value, &format!("{path}[]"), names)),
            _ => names.push(path.trim_start_matches('.').into()),
        }
    }
    let mut names = vec![];
    collect(value, "", &mut names);
    names
}

pub fn machine() -> Machine {
    Machine {
        date: "2026-11-29T22:21:16Z".into(),
        program: "alexnet 0.1.0".into(),
        commit: Some("0123456789abcdef-dirty".into()),
        system: "Linux 6.1.0".into(),
        cpu: Some("A made-up CPU".into()),
        cores: 16,
        device: DEVICE.into(),
        gpus: vec!["A made-up GPU".into()],
        driver: Some("580.65.06".into()),
        clocks: Some(Clocks { sm_mhz: 1755, sm_max_mhz: 1980, memory_mhz: 3201, power_limit_w: 700.0 }),
        versions: BTreeMap::from([("cublaslt".into(), "13.0.2".into()), ("rustc".into(), "1.95.0".into())]),
    }
}

pub fn subject(model: &str) -> Subject {
    Subject {
        model: model.into(),
        checkpoint: "seed:0".into(),
        input_size: 227,
        classes: 1000,
        param_count: 60_965_224,
        gmacs: 0.7248,
        macts: 0.6503,
        split: None,
        fc: None,
        deterministic: false,
        threads: 16,
    }
}

/// Values around `middle`.
fn around(middle: f64) -> Spread {
    Spread::of((0..41).map(|index| middle * (1.0 + 0.002 * f64::from((index * 17) % 41 - 20))).collect())
}

pub fn bench(program: &str, configuration: Option<&str>, speed: f64) -> Bench {
    let mut results = vec![];
    for (precision, fast) in [("float32", 1.0), ("float16", 6.1)] {
        for (mode, share) in [(Mode::Latency, 0.7), (Mode::Compute, 1.0), (Mode::Copied, 0.85)] {
            for power in [0, 3, 6, 8] {
                let batch_size = 1usize << power;
                let filled = batch_size as f64 / (batch_size as f64 + 24.0);
                let samples_per_sec = 52_340.0 * speed * fast * share * filled;
                let step_time_ms = 1e3 * batch_size as f64 / samples_per_sec;
                results.push(BenchResult {
                    program: program.into(),
                    configuration: configuration.map(Into::into),
                    mode,
                    precision: precision.into(),
                    batch_size,
                    samples_per_sec,
                    step_time_ms,
                    latency_ms: around(step_time_ms),
                    enqueue_ms: Some(around(0.012)),
                    h2d_ms: None,
                    compute_ms: Some(around(0.8 * step_time_ms)),
                    d2h_ms: None,
                    windows: Some(Windows { samples_per_sec: [samples_per_sec; 3], stable: true }),
                    steps: 1234,
                    images: 1234 * batch_size,
                    failed: 0,
                    sequential_share: Some(0.93),
                    peak_resident_bytes: Some(612_345_678),
                    step_times_ms: None,
                });
            }
        }
    }
    Bench {
        machine: machine(),
        subject: subject("torchvision"),
        inputs: None,
        warm_up_s: 0.5,
        duration_s: 3.0,
        iterations: 50,
        results,
        cold_start: Some(ColdStart {
            first_prediction_ms: around(412.0),
            processes: 5,
            how: "fresh processes, files in the page cache".into(),
            peers: vec![PeerStart {
                program: "pytorch".into(),
                first_prediction_ms: around(2345.0),
                ratio: 412.0 / 2345.0,
            }],
        }),
        notes: vec!["Made up: <no> device & no 'program' was measured.".into()],
    }
}

pub fn profile(split: bool) -> Profile {
    let ceilings = ceilings();
    // Name, kind, multiply-adds, bytes, reached share of the roofline.
    let layers: [(&str, &str, f64, f64, f64); 12] = [
        ("input", "preprocess", 0.0, 138e6, 0.71),
        ("conv1 + relu1", "conv", 13.5e9, 110e6, 0.44),
        ("norm1 + pool1", "lrn", 0.6e9, 93e6, 0.78),
        ("conv2 + relu2", "conv", 28.7e9, 66e6, 0.68),
        ("norm2 + pool2", "lrn", 0.3e9, 59e6, 0.74),
        ("conv3 + relu3", "conv", 19.1e9, 28e6, 0.72),
        ("conv4 + relu4", "conv", 14.4e9, 34e6, 0.66),
        ("conv5 + relu5", "conv", 9.6e9, 28e6, 0.63),
        ("pool5", "pool", 0.01e9, 14e6, 0.59),
        ("fc6 + relu6", "linear", 4.8e9, 78e6, 0.81),
        ("fc7 + relu7", "linear", 2.1e9, 35e6, 0.77),
        ("fc8", "linear", 0.52e9, 9.4e6, 0.55),
    ];
    let track = |place: &str, part: f64, joins: bool| {
        let mut steps: Vec<ProfileStep> = vec![];
        for (name, kind, mult_adds, bytes, share) in layers {
            if joins && ["conv3", "fc6", "fc7", "fc8"].iter().any(|layer| name.starts_with(layer)) {
                let layer = name.split(' ').next().unwrap_or(name);
                steps.push(step(&format!("join {layer}"), "join", 0.0, 6e6, 0.03, &ceilings));
            }
            steps.push(step(name, kind, mult_adds * part, bytes * part, share * (1.02 - 0.05 * part), &ceilings));
        }
        let total: f64 = steps.iter().map(|step| step.time_ms.median).sum();
        steps.iter_mut().for_each(|step| step.percentage = 100.0 * step.time_ms.median / total);
        ProfileTrack { place: place.into(), steps }
    };
    let tracks = match split {
        true => vec![track("tower 0 on cuda:0", 0.5, true), track("tower 1 on cuda:0", 0.45, true)],
        false => vec![track("cuda:0", 1.0, false)],
    };
    let mut subject = subject("paper");
    subject.split = split.then(|| "two-stream".into());
    Profile {
        machine: machine(),
        subject,
        precision: "float16".into(),
        batch_size: 128,
        ceilings,
        tracks,
        runs: 30,
        stepwise_ms: around(0.81),
        run_ms: around(0.74),
        steps_over_run: 1.06,
        notes: vec!["Made up, as everything here.".into()],
    }
}

pub fn ceilings() -> Ceilings {
    Ceilings {
        flops_per_sec: 812.4e12,
        product: "8192 x 8192 x 8192 by cuBLASLt".into(),
        bytes_per_sec: 3.35e12,
        copy: "copy of 1 GiB within the device".into(),
    }
}

fn step(name: &str, kind: &str, mult_adds: f64, bytes: f64, share: f64, ceilings: &Ceilings) -> ProfileStep {
    let flops = 2.0 * mult_adds;
    let (compute, memory) = (flops / ceilings.flops_per_sec, bytes / ceilings.bytes_per_sec);
    let seconds = compute.max(memory) / share;
    ProfileStep {
        name: name.into(),
        kind: kind.into(),
        kernel: format!("{kind}_f16_128x128x32, grid (13, 24)"),
        input_shape: [128, 27, 27, 96],
        output_shape: [128, 27, 27, 256],
        params: 307_456,
        mult_adds: mult_adds as usize,
        multiplications: None,
        flops,
        bytes,
        time_ms: around(1e3 * seconds),
        percentage: 0.0,
        flops_per_sec: flops / seconds,
        bytes_per_sec: bytes / seconds,
        roofline_percentage: 100.0 * share,
        bound: if compute > memory { Bound::Compute } else { Bound::Memory },
    }
}

pub fn compare() -> Compare {
    let layout =
        |name: &str, meaning: &str| LayoutRow { layout: name.into(), meaning: meaning.into(), device: DEVICE.into() };
    let mut results = vec![];
    for (batch_size, scale) in [(1, 0.21), (8, 0.34), (256, 4.9)] {
        let speed = |ms: f64| 1e3 * batch_size as f64 / ms;
        let memory = |place: &str, weights: usize| Memory {
            place: place.into(),
            weights_bytes: weights,
            buffers_bytes: 91_234_304,
        };
        let rounds = |ms: f64| {
            let round = |index: usize| Round {
                images: 64 * batch_size,
                seconds: 0.064 * ms * (1.0 + 0.01 * (index % 3) as f64),
            };
            (0..10).map(round).collect::<Vec<Round>>()
        };
        let rates = |ms: f64| rounds(ms).iter().map(Round::images_per_second).collect::<Vec<f64>>();
        for (name, ms) in [("single", scale), ("two-stream", 0.91 * scale)] {
            let split = name != "single";
            let places: &[&str] = if split { &["tower 0 on cuda:0", "tower 1 on cuda:0"] } else { &["cuda:0"] };
            let towers: Vec<Tower> =
                places.iter().enumerate().map(|(index, place)| tower(place, index, split, ms)).collect();
            results.push(CompareResult {
                layout: name.into(),
                batch_size,
                images_per_second: around(speed(ms)),
                latency_ms: around(1.1 * ms),
                speed_up: split.then(|| SpeedUp::of(&rates(ms), &rates(scale))),
                timeline: Towers {
                    total_ms: ms,
                    overlap: split.then_some(0.934),
                    towers,
                    runs_ms: vec![ms, 1.02 * ms, 0.99 * ms],
                },
                memory: places.iter().map(|place| memory(place, 243_860_896 / places.len())).collect(),
                rounds: rounds(ms),
            });
        }
    }
    Compare {
        machine: machine(),
        subject: subject("paper"),
        precision: "float16".into(),
        seed: 0,
        duration_s: 3.0,
        layouts: vec![
            layout("single", "the whole network on one GPU"),
            layout("two-stream", "two towers on one GPU, a stream each"),
        ],
        equal: true,
        logits_compared: 530_000,
        notes: vec!["Made up: nothing was compared.".into()],
        results,
    }
}

/// Lasts `total` milliseconds; of two, the second waits less and ends first.
fn tower(place: &str, index: usize, split: bool, total: f64) -> Tower {
    let shares = [
        ("input", 0.05),
        ("conv1 + relu1", 0.17),
        ("norm1 + pool1", 0.06),
        ("conv2 + relu2", 0.18),
        ("norm2 + pool2", 0.04),
        ("join conv3", 0.02),
        ("conv3 + relu3", 0.11),
        ("conv4 + relu4", 0.09),
        ("conv5 + relu5 + pool5", 0.07),
        ("join fc6", 0.03),
        ("fc6 + relu6", 0.09),
        ("join fc7", 0.01),
        ("fc7 + relu7", 0.05),
        ("join fc8", 0.01),
        ("fc8", 0.02),
    ];
    let (mut now, mut spans) = (0.0, vec![]);
    for (name, share) in shares {
        let join = name.strip_prefix("join ");
        if (join.is_some() && !split) || (index == 1 && name.contains("fc8")) {
            continue;
        }
        // The second computes a little longer before it waits, and has as much less to wait.
        let shift = match (index, join.is_some()) {
            (1, true) => -0.008,
            (1, false) if name.starts_with("norm2") || name.starts_with("conv5") || name.starts_with("fc6") => 0.008,
            _ => 0.0,
        };
        let end_ms = now + (share + shift) * total;
        let layers = || name.split(" + ").map(Into::into).collect();
        let work = match join {
            Some(layer) => TowerWork::Join { layer: layer.into(), bytes: 331_776 },
            None => TowerWork::Layers { layers: layers() },
        };
        spans.push(TowerSpan { work, begin_ms: now, end_ms });
        now = end_ms;
    }
    let sum = |joins: bool| {
        let of = spans.iter().filter(|span| matches!(span.work, TowerWork::Join { .. }) == joins);
        of.map(TowerSpan::ms).sum::<f64>()
    };
    Tower {
        place: place.into(),
        computing_ms: sum(false),
        joins_ms: sum(true),
        idle_ms: total - now,
        exchanged_bytes: if split { 995_328 } else { 0 },
        spans,
    }
}

pub fn kernels() -> Kernels {
    let mut cases = vec![];
    for variant in ["torchvision", "paper"] {
        for (layer, mult_adds, bytes, share) in [
            ("conv1 + relu1", 27e9, 220e6, 0.44),
            ("conv2 + relu2 + pool2", 57e9, 132e6, 0.68),
            ("conv3 + relu3", 38e9, 56e6, 0.72),
            ("fc6 + relu6", 9.7e9, 82e6, 0.81),
        ] {
            let step = step(layer, "conv", mult_adds, bytes, share, &ceilings());
            let group = if layer.starts_with("fc") { "fc" } else { "conv" };
            let peer = |library: &str, ratio: f64| KernelPeer {
                library: library.into(),
                how: "implicit precomputed GEMM".into(),
                time_us: around(1e3 * ratio * step.time_ms.median),
                ratio,
            };
            cases.push(KernelCase {
                group: group.into(),
                variant: variant.into(),
                layer: layer.into(),
                precision: "float16".into(),
                batch_size: 256,
                kernel: step.kernel.clone(),
                time_us: around(1e3 * step.time_ms.median),
                flops: step.flops,
                bytes: step.bytes,
                flops_per_sec: step.flops_per_sec,
                bytes_per_sec: step.bytes_per_sec,
                roofline_percentage: step.roofline_percentage,
                bound: step.bound,
                peers: if group == "fc" { vec![peer("cublaslt", 0.96)] } else { vec![peer("cudnn", 1.12)] },
            });
        }
    }
    Kernels {
        machine: machine(),
        ceilings: vec![("float16".into(), ceilings())],
        cases,
        notes: vec!["Made up: no kernel ran.".into()],
    }
}
