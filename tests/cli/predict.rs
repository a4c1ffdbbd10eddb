//! `predict`: formats, inputs, and the same numbers whatever the way in.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::Instant;

use serde_json::Value;

use super::{alexnet, command, csv_rows, finish, str};
use crate::testdata;

/// Label and probability of every sample, for `checkpoint`, from a CSV.
pub fn check_demo(checkpoint: &str, csv: &str, tolerance: f64) {
    let expected = testdata::json("tests/data/demo/expected.json");
    let pictures = expected[checkpoint]["pictures"].as_object().unwrap();
    let rows = csv_rows(csv);
    let names: Vec<String> = pictures.keys().map(|k| k.replace("samples/", "samples/shapes/")).collect();
    assert_eq!(rows.iter().map(|r| r["filename"].clone()).collect::<Vec<_>>(), names, "rows are in input order");
    for (row, recorded) in rows.iter().zip(pictures.values()) {
        assert_eq!(row["label"], recorded["label"].as_str().unwrap(), "{row:?}");
        let probability: f64 = row["prob"].parse().unwrap();
        assert!((probability - recorded["prob"].as_f64().unwrap()).abs() < tolerance, "{row:?} {recorded}");
        assert_eq!(row["error"], "");
    }
}

#[test]
fn the_two_demo_checkpoints() {
    let run = alexnet(["predict", "samples/shapes"]);
    let first = run.stderr.lines().next().unwrap_or_default();
    assert!(first.contains("built-in demo") && first.contains("IMAGENET1K_V1"), "{first}");
    let csv = run.expect(0);
    assert_eq!(csv.lines().next(), Some("filename,index,label,prob,error"));
    check_demo("shapes.safetensors", &csv, 1e-3);

    let paper = ["predict", "samples/shapes/", "--checkpoint", "samples/shapes-paper.safetensors"];
    let whole = alexnet(paper).expect(0);
    check_demo("shapes-paper.safetensors", &whole, 1e-3);

    let towers = alexnet(paper.iter().chain(&["--device", "cpu", "--split", "two-stream", "-j", "3"]));
    assert!(towers.stderr.contains("two towers on 2 + 1 threads"), "{}", towers.stderr);
    assert_eq!(towers.expect(0), whole, "two towers give the bits of the whole network");
}

#[test]
fn formats_agree() {
    let inputs = ["samples/shapes/star", "tests/data/print/half.txt"];
    let run = |extra: &[&str]| alexnet(["predict"].iter().chain(&inputs).chain(extra)).expect(3);
    let csv = csv_rows(&run(&["--topk", "2", "--results-format", "csv"]));
    let jsonl = run(&["--topk", "2", "--results-format", "jsonl"]);
    let table = run(&["--topk", "2", "--results-format", "table"]);
    assert_eq!((csv.len(), jsonl.lines().count(), table.lines().count()), (5, 5, 6));
    for (index, (row, line)) in csv.iter().zip(jsonl.lines()).enumerate() {
        let json: Value = serde_json::from_str(line).unwrap();
        assert_eq!(json["filename"], row["filename"].as_str());
        let shown = table.lines().nth(index + 1).unwrap();
        assert!(shown.starts_with(&row["filename"]), "{shown}");
        if row["error"].is_empty() {
            for k in 0..2 {
                let prediction = &json["predictions"][k];
                assert_eq!(prediction["label"], row[&format!("label_{k}")].as_str());
                assert_eq!(prediction["index"].to_string(), row[&format!("index_{k}")]);
                let probability: f32 = row[&format!("prob_{k}")].parse().unwrap();
                assert_eq!(prediction["prob"].as_f64().unwrap() as f32, probability);
                assert!(shown.contains(&format!("{probability:.6}  {}", row[&format!("label_{k}")])), "{shown}");
            }
            assert!(json.get("error").is_none());
        } else {
            assert_eq!(json["error"], row["error"].as_str());
            assert!(json.get("predictions").is_none() && row["label_0"].is_empty() && shown.contains("error"));
        }
    }
}

#[test]
fn all_logits_come_out_at_the_class_count() {
    let arguments = ["predict", "samples/shapes/ring/0.jpg", "--topk", "10", "--output-type", "logit"];
    let rows = csv_rows(&alexnet(arguments).expect(0));
    let logit = |k: usize| rows[0][&format!("logit_{k}")].parse::<f64>().unwrap();
    let logits: Vec<f64> = (0..10).map(logit).collect();
    assert!(logits.windows(2).all(|w| w[0] >= w[1]), "{logits:?}");
    let mut indices: Vec<usize> = (0..10).map(|k| rows[0][&format!("index_{k}")].parse().unwrap()).collect();
    indices.sort();
    assert_eq!(indices, (0..10).collect::<Vec<_>>());

    // The softmax of the logits is what --output-type prob says.
    let prob =
        csv_rows(&alexnet(["predict", "samples/shapes/ring/0.jpg"]).expect(0))[0]["prob"].parse::<f64>().unwrap();
    let softmax = 1.0 / logits.iter().map(|l| (l - logits[0]).exp()).sum::<f64>();
    assert!((softmax - prob).abs() < 1e-6, "{softmax} {prob}");
}

#[test]
fn a_results_file_has_the_rows_and_stdout_none() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("rows.jsonl");
    let stdout = alexnet(["predict", "samples/shapes/dots", "--results-file", str(&file)]).expect(0);
    assert_eq!(stdout, "");
    let rows: Vec<Value> =
        fs::read_to_string(&file).unwrap().lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert_eq!(rows.len(), 4, "a .jsonl file gets JSON lines");
    assert_eq!(rows[3]["filename"], "samples/shapes/dots/3.jpg");
}

/// The same pictures by folder, glob, list and pack: the same classes and scores to the last bit.
#[test]
fn every_way_in_gives_the_same_rows() {
    let scores = |csv: &str| -> Vec<_> {
        csv_rows(csv).into_iter().map(|r| [r["index"].clone(), r["label"].clone(), r["prob"].clone()]).collect()
    };
    let folder = scores(&alexnet(["predict", "samples/shapes"]).expect(0));
    assert_eq!(scores(&alexnet(["predict", "samples/shapes/*/?.jpg"]).expect(0)), folder);

    let mut list: Vec<_> = fs::read_dir(testdata::path("samples/shapes")).unwrap().map(|e| e.unwrap().path()).collect();
    list.sort();
    let list: String = list.iter().flat_map(|d| (0..4).map(move |i| format!("{}/{i}.jpg\n", d.display()))).collect();
    let listed = finish(command(["predict", "-"]), list.as_bytes()).expect(0);
    assert_eq!(scores(&listed), folder);

    let dir = tempfile::tempdir().unwrap();
    let pack = dir.path().join("pixels.npy");
    alexnet(["pack", "samples/shapes", "-o", str(&pack)]).expect(0);
    let packed = alexnet(["predict", str(&pack)]).expect(0);
    assert_eq!(scores(&packed), folder);
    assert_eq!(csv_rows(&packed)[7]["filename"], format!("{}#7", str(&pack)));
    let rows = csv_rows(&fs::read_to_string(dir.path().join("pixels.csv")).unwrap());
    assert_eq!((rows.len(), &rows[4]["filename"][..], &rows[4]["row"][..]), (40, "samples/shapes/cross/0.jpg", "4"));

    // One image at a time, on one thread, small differences of summation order remain.
    let one = csv_rows(&alexnet(["predict", "samples/shapes", "-b", "1", "-j", "1"]).expect(0));
    for (one, many) in one.iter().zip(&folder) {
        assert_eq!(one["label"], many[1]);
        let difference = one["prob"].parse::<f64>().unwrap() - many[2].parse::<f64>().unwrap();
        assert!(difference.abs() < 1e-5, "{one:?} {many:?}");
    }
}

#[test]
fn labels_from_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let labels = folder.path().join("labels.txt");
    let names: String = (0..10).map(|i| format!("shape {i}\n")).collect();
    fs::write(&labels, names).unwrap();
    let csv = alexnet(["predict", "samples/shapes/ring/0.jpg", "--labels", str(&labels)]).expect(0);
    assert_eq!(csv_rows(&csv)[0]["label"], "shape 1");
    fs::write(&labels, "one\ntwo\n").unwrap();
    let run = alexnet(["predict", "samples/shapes/ring/0.jpg", "--labels", str(&labels)]);
    run.refuse(2, &["labels.txt", "2 labels", "10 classes"]);
}

#[test]
fn input_sizes_decoders_and_exif() {
    let run = |picture: &str, extra: &[&str]| alexnet(["predict", picture].iter().chain(extra));
    let prob =
        |picture: &str, extra: &[&str]| csv_rows(&run(picture, extra).expect(0))[0]["prob"].parse::<f64>().unwrap();
    for size in ["160", "320"] {
        let sized = run("samples/shapes/star", &["--input-size", size]);
        assert!(sized.stderr.contains(&format!("{size}x{size} input")), "{}", sized.stderr);
        assert_eq!(csv_rows(&sized.expect(0)).len(), 4);
    }
    // The fast decoder's pixels differ by a few levels where colour is subsampled.
    let star = "samples/shapes/star/0.jpg";
    let (exact, fast) = (prob(star, &[]), prob(star, &["--decoder", "fast"]));
    assert!(exact != fast && (exact - fast).abs() < 0.02, "{exact} {fast}");
    let rotated = "tests/data/images/exif-rotated.jpg";
    assert_eq!(prob(rotated, &[]), prob(rotated, &["--exif", "ignore"]));
    assert_ne!(prob(rotated, &[]), prob(rotated, &["--exif", "apply"]));
}

/// 999 results and one error row.
#[test]
fn one_corrupt_picture_in_a_thousand() {
    let folder = tempfile::tempdir().unwrap();
    let good = testdata::bytes("samples/shapes/disc/0.jpg");
    for index in 0..1000 {
        let bytes = if index == 617 { &good[..good.len() / 2] } else { &good[..] };
        fs::write(folder.path().join(format!("{index:04}.jpg")), bytes).unwrap();
    }
    let run = alexnet(["predict", str(folder.path()), "-b", "64"]);
    assert!(run.stderr.contains("999 images") && run.stderr.contains("1 failed"), "{}", run.stderr);
    let rows = csv_rows(&run.expect(3));
    assert_eq!(rows.len(), 1000);
    for (index, row) in rows.iter().enumerate() {
        assert_eq!(row["filename"], format!("{}/{index:04}.jpg", str(folder.path())));
        assert_eq!(
            (row["label"].as_str(), row["error"].is_empty()),
            if index == 617 { ("", false) } else { ("disc", true) }
        );
    }
    assert!(rows[617]["error"].contains("JPEG"), "{:?}", rows[617]);
}

/// Files that are no pictures are rows; a FIFO is not opened, which would never return.
#[test]
fn whatever_is_no_picture_is_an_error_row() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let jpeg = testdata::bytes("samples/shapes/disc/0.jpg");
    fs::write(path("a-truncated.jpg"), &jpeg[..2000]).unwrap();
    fs::write(path("b-without-end.jpg"), &jpeg[..jpeg.len() - 2]).unwrap();
    fs::write(path("c-empty.jpg"), "").unwrap();
    fs::write(path("d-text.jpg"), "not a picture").unwrap();
    assert!(Command::new("mkfifo").arg(path("e-pipe.jpg")).status().unwrap().success());
    let mut bomb = testdata::bytes("tests/data/images/quarter.bmp");
    bomb[18..22].copy_from_slice(&60_000u32.to_le_bytes());
    bomb[22..26].copy_from_slice(&60_000u32.to_le_bytes());
    fs::write(path("f-bomb.bmp"), bomb).unwrap();
    fs::write(path("g-good.jpg"), &jpeg).unwrap();
    let rows = csv_rows(&alexnet(["predict", str(folder.path())]).expect(3));
    let reasons = ["stops before its end", "stops before its end", "an empty file", "text", "a pipe", "too large", ""];
    assert_eq!(rows.len(), reasons.len());
    for (row, reason) in rows.iter().zip(reasons) {
        assert!(row["error"].contains(reason) && row["error"].is_empty() == reason.is_empty(), "{row:?}");
    }
}

/// Ctrl-C ends the run after its batch: whole rows, in order, and exit 130.
#[test]
fn an_interrupt_keeps_whole_rows() {
    let list = "samples/shapes/star/0.jpg\n".repeat(20_000);
    let mut command = command(["predict", "-", "-b", "4"]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let writer = std::thread::spawn(move || {
        let _ = std::io::Write::write_all(&mut stdin, list.as_bytes());
    });
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    for _ in 0..9 {
        lines.next().unwrap().unwrap();
    }
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    let rest: Vec<String> = lines.map(|l| l.unwrap()).collect();
    assert_eq!(child.wait().unwrap().code(), Some(130));
    writer.join().unwrap();
    assert!(rest.len() < 19_000, "the run went on to its end");
    assert_eq!((8 + rest.len()) % 4, 0, "whole batches");
    assert!(rest.iter().all(|l| l.starts_with("samples/shapes/star/0.jpg,4,star,0.") && l.ends_with(',')), "{rest:?}");
}

/// Decoding and computing take turns: the time of all threads together is no more than that of the run.
#[test]
fn one_thread_is_one_that_is_busy() {
    let script = "\"$0\" predict samples/shapes -j 1 -b 4 --checkpoint samples/shapes.safetensors > /dev/null && times";
    let mut run = Command::new("sh");
    run.args(["-c", script]).arg(testdata::alexnet()).current_dir(testdata::path("")).env("CUDA_VISIBLE_DEVICES", "");
    let begin = Instant::now();
    let times = finish(run, b"").expect(0);
    let wall = begin.elapsed().as_secs_f64();
    // Of the shell's children, `0m1.234s 0m0.056s`: in user mode and in the system.
    let seconds = |word: &str| -> f64 {
        let (minutes, seconds) = word.trim_end_matches('s').split_once('m').expect("minutes and seconds");
        60.0 * minutes.parse::<f64>().unwrap() + seconds.parse::<f64>().unwrap()
    };
    let busy: f64 = times.lines().last().unwrap().split_whitespace().map(seconds).sum();
    assert!(busy > 0.0 && busy < 1.05 * wall + 0.02, "{busy} s of work in {wall} s");
}
