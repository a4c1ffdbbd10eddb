//! Values are read from the file when they are needed: the same ones as from memory, and refused wherever they are bad.

use std::fs::{File, read};

use alexnet::weights::{Checkpoint, Tensor};
use alexnet::{Device, Error, Input, Model, Options, Split};

use crate::testdata;

const CHECKPOINTS: [&str; 12] = [
    "paper.f32.safetensors",
    "paper.zip.pth",
    "torchvision.bf16.safetensors",
    "torchvision.f16.pth",
    "torchvision.f16.safetensors",
    "torchvision.f32.safetensors",
    "torchvision.f64.safetensors",
    "torchvision.legacy.pth",
    "torchvision.training-checkpoint.pth",
    "torchvision.views.pth",
    "torchvision.zip.pth",
    "../../../samples/shapes.safetensors",
];

fn cpu(split: Option<Split>) -> Options {
    Options { device: Device::Cpu, split, ..Options::default() }
}

fn rejected<T>(result: Result<T, Error>) -> Vec<String> {
    match result {
        Err(Error::Weights { problems, .. }) => problems,
        Err(error) => panic!("refused for another reason: {error}"),
        Ok(_) => panic!("accepted"),
    }
}

#[test]
fn files_and_memory_hold_the_same() {
    for name in CHECKPOINTS {
        let path = testdata::path(&format!("tests/data/checkpoints/{name}"));
        let (file, memory) = (Checkpoint::open(&path).unwrap(), Checkpoint::from_bytes(&path, &read(&path).unwrap()));
        assert!(file == memory.unwrap(), "{name}");
    }
}

/// From a file of each type and from memory, whole and in towers: the logits of the values in f32.
#[test]
fn models_from_files_compute_as_those_from_memory() {
    let open = |name: &str| Checkpoint::open(&testdata::path(&format!("tests/data/checkpoints/torchvision.{name}")));
    for name in ["f32.safetensors", "f16.safetensors", "bf16.safetensors", "f64.safetensors", "views.pth", "legacy.pth"]
    {
        let stored = open(name).unwrap();
        let mut widened = stored.clone();
        for tensor in widened.tensors.values_mut() {
            *tensor = Tensor::from_f32(tensor.shape.clone(), &tensor.to_f32().unwrap());
        }
        for split in [None, Some(Split::TwoStream)] {
            let [found, expected] = [&stored, &widened].map(|checkpoint| {
                let model = Model::from_checkpoint(checkpoint.clone(), &cpu(split)).unwrap();
                let pixels: Vec<u8> = (0..model.network().input().len()).map(|i| (i * 7 % 251) as u8).collect();
                model.logits(Input::Pixels(&pixels)).unwrap()
            });
            assert_eq!(found, expected, "{name}, {split:?}");
        }
    }
}

/// Bad values of both towers' halves, deep in layers of both kinds, are named before anything is computed.
#[test]
fn every_bad_tensor_is_named_by_whoever_packs_it() {
    let mut checkpoint = alexnet::demo_checkpoint();
    let mut spoil = |name: &str, place: fn(usize) -> usize, value: f32| {
        let tensor = checkpoint.tensors.get_mut(name).unwrap();
        let mut values = tensor.to_f32().unwrap();
        let index = place(values.len());
        values[index] = value;
        *tensor = Tensor::from_f32(tensor.shape.clone(), &values);
        format!("{name}: expected finite values, found NaN, infinity or a number beyond f32 at element {index}")
    };
    let expected = [
        spoil("classifier.1.weight", |len| len - 1, f32::NAN),
        spoil("classifier.6.bias", |len| len - 1, f32::INFINITY),
        spoil("classifier.6.weight", |len| len - 2, f32::NAN),
        spoil("features.0.weight", |_| 3, f32::NEG_INFINITY),
        spoil("features.8.weight", |len| len - 1, f32::NAN),
    ];
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bad.safetensors");
    checkpoint.save_safetensors(&path).unwrap();
    for split in [None, Some(Split::TwoStream)] {
        assert_eq!(rejected(Model::from_checkpoint(checkpoint.clone(), &cpu(split))), expected, "{split:?}");
        assert_eq!(rejected(Model::load(&path, &cpu(split))), expected, "{split:?}");
    }
}

/// A file that somebody cuts short after it was opened is an error, not the end of the process.
#[test]
fn a_file_that_becomes_shorter() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["torchvision.f32.safetensors", "torchvision.zip.pth", "torchvision.bf16.safetensors"] {
        let path = folder.path().join(name);
        std::fs::copy(testdata::path(&format!("tests/data/checkpoints/{name}")), &path).unwrap();
        let checkpoint = Checkpoint::open(&path).unwrap();
        File::options().write(true).open(&path).and_then(|file| file.set_len(9_000)).unwrap();
        for split in [None, Some(Split::TwoStream)] {
            let problems = rejected(Model::from_checkpoint(checkpoint.clone(), &cpu(split)));
            assert_eq!(problems, ["the file has become shorter since it was opened; load it again"], "{name}");
        }
        assert!(checkpoint.tensors.values().any(|tensor| tensor.to_f32().is_err()), "{name}");
        assert!(checkpoint != checkpoint.clone(), "{name}: what cannot be read equals nothing");
        let error = checkpoint.save_safetensors(&folder.path().join("copy.safetensors")).unwrap_err();
        assert_eq!(error.exit_code(), 4, "{name}: {error}");
    }
}
