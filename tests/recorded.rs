//! The kernel benchmarks, on the emulated device: that they run, and what they leave in the record.

use std::process::Command;

use alexnet::record::{Bound, Kernels, Record};

/// Two benchmarks into one file, each case once. Nothing here is a measurement.
#[test]
#[ignore = "builds two benchmarks, run by .ci/run"]
fn kernel_benchmarks_record_what_they_ran() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("kernels.json");
    for bench in ["pool_lrn", "fc"] {
        let mut cargo = Command::new(env!("CARGO"));
        cargo.args(["test", "--quiet", "--locked", "--bench", bench, "--", "/(pool5|norm2|fc8)"]);
        cargo.current_dir(env!("CARGO_MANIFEST_DIR")).env("ALEXNET_BENCH_DEVICE", "emulated");
        cargo.env("ALEXNET_BENCH_BATCHES", "1").env("ALEXNET_BENCH_PRECISIONS", "float16");
        let output = cargo.env("ALEXNET_BENCH_RECORD", &path).output().unwrap();
        let text = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
        assert!(output.status.success() && text.contains("% of ceiling"), "{text}");
    }
    let Record::Kernels(Kernels { machine, ceilings, cases, notes }) = Record::read(&path).unwrap() else {
        panic!("another record")
    };
    assert!(machine.device.starts_with("cuda:0"), "{}", machine.device);
    assert_eq!(ceilings.iter().map(|(name, _)| &**name).collect::<Vec<_>>(), ["float16"]);
    assert!(notes.iter().any(|note| note.contains("emulated device")), "{notes:?}");
    let summary: Vec<_> = cases
        .iter()
        .map(|case| {
            let libraries = case.peers.iter().map(|peer| &*peer.library).collect::<Vec<_>>().join(" ");
            format!("{}/{} {libraries}", case.group, case.layer)
        })
        .collect();
    for expected in
        ["pool_lrn/pool5+avgpool+drop6 ", "pool_lrn/norm2+pool2 ", "lrn_pool/norm2+pool2 separate", "fc/fc8 cublaslt"]
    {
        assert!(summary.iter().any(|case| case == expected), "'{expected}' is not in {summary:?}");
    }
    for case in &cases {
        let positive = [case.time_us.median, case.bytes, case.bytes_per_sec, case.roofline_percentage];
        assert!(positive.iter().all(|value| *value > 0.0), "{case:?}");
        assert_eq!((&*case.precision, case.batch_size), ("float16", 1));
        assert!(case.peers.iter().all(|peer| peer.ratio > 0.0 && !peer.how.is_empty()), "{case:?}");
        match &*case.group {
            "fc" => {
                let inputs = if case.variant == "half" { 2048.0 } else { 4096.0 };
                assert_eq!(case.flops, 2.0 * inputs * 1000.0);
            }
            _ => assert_eq!((case.flops, case.bound), (0.0, Bound::Memory)),
        }
    }
}
