//! Checkpoints: what the golden files hold, the round trip through safetensors, labels. Hostile files are in
//! `weights/hostile.rs`.

mod builder;
mod hostile;
mod mutations;
mod reading;

use std::path::Path;

use alexnet::Error;
use alexnet::weights::{Checkpoint, DType, Tensor, imagenet1k_labels, read_labels};
use half::{bf16, f16};

use crate::testdata;

fn golden(name: &str) -> Checkpoint {
    let path = testdata::path(&format!("tests/data/checkpoints/{name}"));
    Checkpoint::open(&path).unwrap_or_else(|e| panic!("{e}"))
}

/// Names, shapes and the bits of the values in f32.
fn values(checkpoint: &Checkpoint) -> Vec<(&str, &[usize], Vec<u32>)> {
    let bits = |t: &Tensor| t.to_f32().unwrap().into_iter().map(f32::to_bits).collect();
    checkpoint.tensors.iter().map(|(name, t)| (name.as_str(), &t.shape[..], bits(t))).collect()
}

/// The stream rule of the golden files: value `index` of the tensor `name`, uniform within `bound`.
fn stream(name: &str, index: u64, bound: f32) -> f32 {
    const SEED: u64 = 20120930;
    let fnv1a64 = name.bytes().fold(0xCBF29CE484222325u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x100000001B3));
    let mut z = (fnv1a64 ^ SEED).wrapping_add((index + 1).wrapping_mul(0x9E3779B97F4A7C15));
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58476D1CE4E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D049BB133111EB);
    z ^= z >> 31;
    let u = (z >> 40) as f32 * 2f32.powi(-24);
    (u * 2.0 - 1.0) * bound
}

#[test]
fn golden_weights_follow_the_stream_rule() {
    for file in ["torchvision.f32.safetensors", "paper.f32.safetensors"] {
        let checkpoint = golden(file);
        assert_eq!(checkpoint.tensors.len(), 16, "{file}");
        for (name, tensor) in &checkpoint.tensors {
            let (layer, kind) = name.rsplit_once('.').unwrap();
            let weight = &checkpoint.tensors[&format!("{layer}.weight")];
            let fan_in = weight.shape[1..].iter().product::<usize>() as f64;
            let bound = if kind == "weight" { (6.0 / fan_in).sqrt() } else { fan_in.powf(-0.5) } as f32;
            for (i, value) in tensor.to_f32().unwrap().into_iter().enumerate() {
                let expected = stream(name, i as u64, bound);
                assert_eq!(value.to_bits(), expected.to_bits(), "{file}: {name}[{i}]: {value}, expected {expected}");
            }
        }
    }
}

#[test]
fn layouts_hold_the_same_values() {
    let same = [
        ("torchvision.f32.safetensors", "torchvision.f64.safetensors", DType::F64),
        ("torchvision.f32.safetensors", "torchvision.zip.pth", DType::F32),
        ("torchvision.f32.safetensors", "torchvision.legacy.pth", DType::F32),
        ("torchvision.f32.safetensors", "torchvision.training-checkpoint.pth", DType::F32),
        ("torchvision.f32.safetensors", "torchvision.views.pth", DType::F32),
        ("torchvision.f16.safetensors", "torchvision.f16.pth", DType::F16),
        ("paper.f32.safetensors", "paper.zip.pth", DType::F32),
    ];
    for (expected, file, dtype) in same {
        let (expected, found) = (golden(expected), golden(file));
        assert!(found.tensors.values().all(|t| t.dtype == dtype), "{file}");
        assert!(values(&found) == values(&expected), "{file} differs from {}", expected.path.display());
        assert_eq!((found.variant, found.labels), (None, None), "{file}");
    }
}

#[test]
fn half_precision_files_hold_the_rounded_values() {
    let exact = golden("torchvision.f32.safetensors");
    let rounded = |round: fn(f32) -> f32| {
        let mut values = values(&exact);
        values.iter_mut().flat_map(|(_, _, bits)| bits).for_each(|b| *b = round(f32::from_bits(*b)).to_bits());
        values
    };
    let f16_file = golden("torchvision.f16.safetensors");
    assert!(f16_file.tensors.values().all(|t| t.dtype == DType::F16));
    assert!(values(&f16_file) == rounded(|v| f16::from_f32(v).to_f32()));
    let bf16_file = golden("torchvision.bf16.safetensors");
    assert!(bf16_file.tensors.values().all(|t| t.dtype == DType::Bf16));
    assert!(values(&bf16_file) == rounded(|v| bf16::from_f32(v).to_f32()));
}

#[test]
fn samples_carry_metadata() {
    let labels = "disc ring square triangle star cross stripes checkerboard dots spiral";
    for (file, variant) in [("shapes", "torchvision"), ("shapes-paper", "paper")] {
        let path = testdata::path(&format!("samples/{file}.safetensors"));
        let sample = Checkpoint::open(&path).unwrap();
        assert_eq!(sample.variant.as_deref(), Some(variant));
        assert_eq!(sample.labels.as_ref().unwrap().join(" "), labels);
        assert_eq!(sample.path, path);
        let embedded = Checkpoint::from_bytes(Path::new("<embedded>"), &std::fs::read(&path).unwrap()).unwrap();
        assert_eq!(embedded.tensors, sample.tensors);
    }
}

/// One tensor per type, of an odd number of elements each.
fn every_dtype() -> Checkpoint {
    let tensor = |dtype: DType| {
        let bytes = (0..3 * dtype.size()).map(|i| i as u8 + 1).collect();
        Tensor::new(dtype, vec![3, 1], bytes)
    };
    let tensors = [("a", DType::Bf16), ("b", DType::F64), ("c", DType::F16), ("d.\"é\n", DType::F32)];
    Checkpoint {
        path: "made".into(),
        tensors: tensors.into_iter().map(|(name, dtype)| (name.to_owned(), tensor(dtype))).collect(),
        variant: Some("paper".into()),
        labels: Some(vec!["tench, Tinca tinca".into(), "\"quoted\" \\ é".into()]),
        metadata: [("format".into(), "pt".into())].into(),
    }
}

#[test]
fn saving_keeps_everything_and_is_deterministic() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.safetensors");
    let training = golden("torchvision.training-checkpoint.pth");
    for checkpoint in [every_dtype(), Checkpoint { labels: None, ..every_dtype() }, training] {
        checkpoint.save_safetensors(&path).unwrap();
        let bytes = std::fs::read(&path).unwrap();
        let again = Checkpoint::open(&path).unwrap();
        assert_eq!(again.tensors, checkpoint.tensors);
        assert_eq!(again.variant, checkpoint.variant);
        assert_eq!(again.labels, checkpoint.labels);
        again.save_safetensors(&path).unwrap();
        assert!(std::fs::read(&path).unwrap() == bytes, "a second save differs");
    }
    let files: Vec<_> = std::fs::read_dir(folder.path()).unwrap().map(|f| f.unwrap().file_name()).collect();
    assert_eq!(files, ["a.safetensors"], "no partial file stays");
}

#[test]
fn saved_bytes_are_pinned() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.safetensors");
    every_dtype().save_safetensors(&path).unwrap();
    let bytes = std::fs::read(&path).unwrap();
    let expected = concat!(
        r#"{"__metadata__":{"format":"pt","alexnet.labels":"[\"tench, Tinca tinca\",\"\\\"quoted\\\" \\\\ é\"]","#,
        r#""alexnet.variant":"paper"},"b":{"dtype":"F64","shape":[3,1],"data_offsets":[0,24]},"#,
        r#""d.\"é\n":{"dtype":"F32","shape":[3,1],"data_offsets":[24,36]},"#,
        r#""a":{"dtype":"BF16","shape":[3,1],"data_offsets":[36,42]},"#,
        r#""c":{"dtype":"F16","shape":[3,1],"data_offsets":[42,48]}}"#,
    );
    let header_len = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    assert_eq!(std::str::from_utf8(&bytes[8..8 + header_len]).unwrap().trim_end_matches(' '), expected);
    assert_eq!(header_len % 8, 0);
    assert_eq!(bytes.len(), 8 + header_len + 48);
}

#[test]
fn saving_where_nothing_can_be_written_is_an_output_error() {
    let folder = tempfile::tempdir().unwrap();
    let occupied = folder.path().join("occupied");
    std::fs::create_dir(&occupied).unwrap();
    for path in [folder.path().join("missing/a.safetensors"), occupied] {
        let error = every_dtype().save_safetensors(&path).unwrap_err();
        assert!(matches!(&error, Error::Output { path: p, .. } if *p == path), "{error}");
    }
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "no partial file stays");
}

#[test]
fn tensors_convert_and_find_non_finite_values() {
    let f64s = [0.1f64, -1e-50, 3.4e38, 1e39, f64::NAN];
    let bytes = f64s.iter().flat_map(|v| v.to_le_bytes()).collect();
    let tensor = Tensor::new(DType::F64, vec![5], bytes);
    let values = tensor.to_f32().unwrap();
    assert_eq!(&values[..4], [0.1f32, -0.0, 3.4e38, f32::INFINITY]);
    assert!(values[4].is_nan());
    assert_eq!(tensor.len(), 5);
    assert_eq!(tensor.first_non_finite().unwrap(), Some(3), "1e39 is beyond f32");

    let bits: [u16; 4] = [0x0001, 0x7bff, 0xfc00, 0x7e00];
    let bytes: Vec<u8> = bits.iter().flat_map(|v| v.to_le_bytes()).collect();
    let tensor = Tensor::new(DType::F16, vec![2, 2], bytes.clone());
    assert_eq!(&tensor.to_f32().unwrap()[..3], [2f32.powi(-24), 65504.0, f32::NEG_INFINITY]);
    assert_eq!(tensor.first_non_finite().unwrap(), Some(2));
    assert_eq!(Tensor::new(DType::Bf16, vec![4], bytes).first_non_finite().unwrap(), None);

    // Across the blocks that are decoded in parallel, the first one counts.
    let mut many = vec![1.0f32; 300_000];
    assert_eq!(Tensor::from_f32(vec![300_000], &many).first_non_finite().unwrap(), None);
    (many[299_999], many[70_001]) = (f32::NAN, f32::INFINITY);
    let tensor = Tensor::from_f32(vec![3, 100_000], &many);
    assert_eq!(tensor.first_non_finite().unwrap(), Some(70_001));
    assert!(tensor.to_f32().unwrap().iter().zip(&many).all(|(a, b)| a.to_bits() == b.to_bits()));
    assert!(Tensor::from_f32(vec![0, 7], &[]).is_empty());
}

#[test]
fn imagenet_labels_are_complete() {
    let labels = imagenet1k_labels();
    assert_eq!(labels.len(), 1000);
    assert_eq!((labels[0].as_str(), labels[999].as_str()), ("tench", "toilet tissue"));
    assert!(labels.iter().all(|label| !label.trim().is_empty()));
}

#[test]
fn label_files() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("labels");
    let read = |content: &[u8]| {
        std::fs::write(&path, content).unwrap();
        read_labels(&path)
    };
    let good: [&[u8]; 7] = [
        b"a b\nc",
        b"a b\nc\n",
        b"a b\r\nc\r\n\r\n",
        b"a b\nc\n\n \n",
        b"\xef\xbb\xbfa b\nc\n",
        b"[\"a b\", \"c\"]",
        b"[\n\"a b\",\n\"c\"\n]\n",
    ];
    for content in good {
        assert_eq!(read(content).unwrap(), ["a b", "c"], "{:?}", content.escape_ascii().to_string());
    }
    assert_eq!(read("é\n日本".as_bytes()).unwrap(), ["é", "日本"]);

    let bad: [(&[u8], &str); 7] = [
        (b"", "no labels"),
        (b"\n\n", "no labels"),
        (b"a\n\nb\n", "line 2 is blank"),
        (b"a\n\xff\n", "UTF-8"),
        (b"[\"a\"", "JSON"),
        (b"[1, 2]", "JSON"),
        (b"[]", "empty"),
    ];
    for (content, message) in bad {
        let error = read(content).unwrap_err();
        assert!(matches!(error, Error::Usage(_)), "{error}");
        let text = error.to_string();
        assert!(text.contains(message) && text.contains(&path.display().to_string()), "{text}");
    }
    for path in [folder.path().join("missing"), folder.path().to_owned()] {
        assert!(matches!(read_labels(&path), Err(Error::Usage(_))), "{}", path.display());
    }
}
