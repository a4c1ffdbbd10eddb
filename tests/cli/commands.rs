//! The commands beside `predict`.

use std::fs;

use alexnet::weights::{Checkpoint, DType};
use serde_json::Value;

use super::{alexnet, csv_rows, str};
use crate::testdata;

#[test]
fn summary_prints_pytorchs_form() {
    for name in ["torchvision", "half", "single-tower"] {
        let expected = String::from_utf8(testdata::bytes(&format!("tests/data/print/{name}.txt"))).unwrap();
        assert_eq!(alexnet(["summary", "-m", name, "--format", "torch"]).expect(0), expected, "{name}");
    }
    for name in ["paper", "caffe", "caffenet"] {
        alexnet(["summary", "-m", name, "--format", "torch"]).refuse(2, &[name, "single-tower"]);
    }
    // Widths are the checkpoint's.
    let narrow =
        alexnet(["summary", "--checkpoint", "tests/data/checkpoints/torchvision.zip.pth", "--format", "torch"]);
    assert!(narrow.expect(0).contains("(0): Conv2d(3, 8, kernel_size=(11, 11)"));
}

/// How the CPU computes each layer, and why, whatever the input's size.
#[test]
fn explain_tells_how_the_cpu_computes() {
    let explain = |arguments: &[&str]| {
        let common = ["summary", "--explain=cpu", "-m"];
        alexnet(common.iter().chain(arguments).copied().collect::<Vec<_>>()).expect(0)
    };
    let text = explain(&["torchvision"]);
    for part in [
        "conv1 + relu1: 224x224x3 -> 55x55x64\n    Winograd, 7 points, 3 taps: 11 x 5\n    94864 multiplications",
        "in place of 366025\n    blocks of 4 x 4 pixels are its 48 channels",
        "Winograd, 7 points, 5 taps: 9 x 3\n    3969 multiplications a channel and filter, in place of 18225",
        "Winograd, 7 points, 3 taps: 1 x 5 + 2 x 4\n    361 multiplications a channel and filter, in place of 1521",
        "fc6 + relu6 + drop7: 6x6x256 -> 4096\n    product",
    ] {
        assert!(text.contains(part), "'{part}' is not in {text}");
    }
    // conv3 to conv5 have 3 x 3 outputs there.
    let small = explain(&["torchvision", "--input-size", "63"]);
    assert_eq!(small.matches("not Winograd: ").count(), 3, "{small}");
    let towers = explain(&["paper", "--split", "two-stream"]);
    assert!(towers.contains("tower 1\n") && towers.matches("Winograd, 7 points").count() == 10, "{towers}");
    alexnet(["summary", "--explain=cpu", "-m", "paper", "--split", "two-gpu"]).refuse(2, &["two-stream"]);
}

#[test]
fn summary_has_torchinfos_columns_and_totals() {
    let table = alexnet(["summary", "-m", "torchvision"]).expect(0);
    for part in ["Output Shape", "Param #", "Mult-Adds", "conv2 (Conv2d)", "[1, 192, 27, 27]", "307,392", "61,100,840"]
    {
        assert!(table.contains(part), "{part}\n{table}");
    }
    let json: Value =
        serde_json::from_str(&alexnet(["summary", "-m", "paper", "--json", "-b", "2"]).expect(0)).unwrap();
    assert_eq!((&json["variant"], &json["total_params"]), (&"paper".into(), &60_965_224.into()));
    assert_eq!(json["input_shape"], serde_json::json!([2, 3, 227, 227]));
    assert_eq!(json["layers"][0]["type"], "Conv2d");
    let params: u64 = json["layers"].as_array().unwrap().iter().map(|l| l["params"].as_u64().unwrap()).sum();
    assert_eq!(params, 60_965_224);
}

#[test]
fn init_writes_a_checkpoint_that_predicts() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let init = |name: &str, extra: &[&str]| {
        let file = path(name);
        let arguments = ["init", "--model", "half", "--classes", "10", "-o", str(&file)];
        alexnet(arguments.iter().chain(extra)).expect(0);
        fs::read(file).unwrap()
    };
    let a = init("a.safetensors", &["--seed", "7"]);
    assert!(a == init("b.safetensors", &["--seed", "7"]), "the same seed gives the same file");
    assert!(a != init("c.safetensors", &["--seed", "8"]));
    assert!(a != init("d.safetensors", &["--seed", "7", "--scheme", "pytorch"]));

    let file = path("a.safetensors");
    let csv = alexnet(["predict", "samples/shapes/star", "--checkpoint", str(&file)]).expect(0);
    assert!(csv_rows(&csv).iter().all(|r| r["label"].starts_with("class_")), "{csv}");
    let summary = alexnet(["summary", "--checkpoint", str(&file), "--json"]).expect(0);
    let summary: Value = serde_json::from_str(&summary).unwrap();
    assert_eq!(summary["variant"], "half");
    assert_eq!(summary["layers"].as_array().unwrap().last().unwrap()["output_shape"], serde_json::json!([1, 10]));
}

#[test]
fn convert_keeps_dtypes_and_writes_variant_and_labels() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out.safetensors");
    let convert = |input: &str, extra: &[&str]| {
        alexnet(["convert", input, "-o", str(&out)].iter().chain(extra)).expect(0);
        Checkpoint::open(&out).unwrap()
    };
    for (input, dtype) in [
        ("torchvision.f16.pth", DType::F16),
        ("torchvision.f64.safetensors", DType::F64),
        ("torchvision.bf16.safetensors", DType::Bf16),
        ("torchvision.views.pth", DType::F32),
    ] {
        let input = format!("tests/data/checkpoints/{input}");
        let original = Checkpoint::open(&testdata::path(&input)).unwrap();
        let converted = convert(&input, &[]);
        assert!(converted.tensors.values().all(|t| t.dtype == dtype), "{input}");
        assert!(converted.tensors == original.tensors, "{input}");
        assert_eq!(converted.variant.as_deref(), Some("torchvision"));
        assert_eq!(converted.labels, None, "ten classes without names stay without");
    }
    let samples = convert("samples/shapes.safetensors", &[]);
    assert_eq!(samples.metadata["alexnet.top1"], "0.9990", "metadata that is not ours is kept");
    assert_eq!(
        samples,
        Checkpoint { path: out.clone(), ..Checkpoint::open(&testdata::path("samples/shapes.safetensors")).unwrap() }
    );
    let labels = folder.path().join("labels.txt");
    fs::write(&labels, (0..10).map(|i| format!("name {i}\n")).collect::<String>()).unwrap();
    let paper = convert("tests/data/checkpoints/paper.zip.pth", &["-m", "caffe", "--labels", str(&labels)]);
    assert_eq!(paper.variant.as_deref(), Some("caffe"));
    assert_eq!(paper.labels.unwrap()[9], "name 9");
    // What was written decides from then on.
    let run = alexnet(["predict", "samples/shapes/star/0.jpg", "--checkpoint", str(&out)]);
    assert!(run.stderr.contains("caffe,"), "{}", run.stderr);
    assert!(csv_rows(&run.expect(0))[0]["label"].starts_with("name "));

    alexnet(["convert", "tests/data/checkpoints/paper.zip.pth", "-o", str(&out)]).refuse(2, &["--model"]);
    alexnet(["convert", "tests/data/print/half.txt", "-o", str(&out)]).refuse(4, &["tests/data/print/half.txt"]);
    alexnet(["convert", "none.pth", "-o", str(&out)]).refuse(2, &["none.pth"]);
}

#[test]
fn pack_lists_what_failed() {
    let folder = tempfile::tempdir().unwrap();
    let pack = folder.path().join("mixed.npy");
    let run = alexnet([
        "pack",
        "samples/shapes/star",
        "tests/data/print/half.txt",
        "samples/shapes/ring/0.jpg",
        "-o",
        str(&pack),
    ]);
    run.expect(3);
    let rows = csv_rows(&fs::read_to_string(folder.path().join("mixed.csv")).unwrap());
    let shown: Vec<_> = rows.iter().map(|r| (r["row"].as_str(), r["filename"].as_str())).collect();
    assert_eq!(
        shown[3..],
        [("3", "samples/shapes/star/3.jpg"), ("", "tests/data/print/half.txt"), ("4", "samples/shapes/ring/0.jpg")]
    );
    assert!(rows[4]["error"].contains("not a picture"), "{:?}", rows[4]);
    let predicted = csv_rows(&alexnet(["predict", str(&pack)]).expect(0));
    assert_eq!(
        predicted.iter().map(|r| r["label"].as_str()).collect::<Vec<_>>(),
        ["star", "star", "star", "star", "ring"]
    );
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2, "no partial files stay");
}

#[test]
fn completions_and_help() {
    for (shell, part) in [("bash", "_alexnet"), ("zsh", "#compdef alexnet"), ("fish", "complete -c alexnet")] {
        assert!(alexnet(["completions", shell]).expect(0).contains(part), "{shell}");
    }
    let help = alexnet(["--help"]).expect(0);
    for command in ["predict", "pack", "summary", "init", "convert", "bench", "compare", "completions"] {
        assert!(help.contains(command), "{command}");
        assert!(alexnet(["--help"]).expect(0).contains("Usage"), "{command}");
    }
}
