//! PyTorch's numbers: the six full-size networks layer by layer, every checkpoint format, and the demo's labels.

use alexnet::backend::Input;
use alexnet::cpu::naive;
use alexnet::net::{Shape, VARIANTS, Variant};
use alexnet::weights::{Checkpoint, seeded};
use alexnet::{Model, Options, Prediction, Score};
use serde_json::Value;

use crate::device::{CPU, CUDA, CUDA_BF16, CUDA_F16, CUDA_TF32, Target, options};
use crate::kernels::to_nchw;
use crate::{on_every_device, testdata};

/// Mean, mean magnitude, maximum and rms of an (N, C, H, W) activation, and its values at a few places.
struct Recorded<'a>(&'a Value);

impl Recorded<'_> {
    fn name(&self) -> &str {
        self.0["name"].as_str().unwrap()
    }

    fn number(&self, key: &str) -> f64 {
        self.0[key].as_f64().unwrap()
    }

    /// Every recorded figure within `limit` of the recorded rms.
    fn compare(&self, what: &str, Shape { h, w, c }: Shape, values: &[f64], limit: f64) {
        let shape: Vec<usize> = serde_json::from_value(self.0["shape"].clone()).unwrap();
        let flat = self.name().starts_with("fc");
        assert_eq!(shape, if flat { vec![2, c] } else { vec![2, c, h, w] }, "{what}");
        assert_eq!(values.len(), shape.iter().product::<usize>(), "{what}");
        let mean = |f: &dyn Fn(f64) -> f64| values.iter().map(|&v| f(v)).sum::<f64>() / values.len() as f64;
        let rms = self.number("rms");
        let close = |figure: &str, found: f64, expected: f64| {
            let error = (found - expected).abs() / rms;
            assert!(error <= limit, "{what} {figure}: {found} is {error:e} of the rms from {expected}");
        };
        close("mean", mean(&|v| v), self.number("mean"));
        close("mean magnitude", mean(&f64::abs), self.number("mean_abs"));
        close("rms", mean(&|v| v * v).sqrt(), rms);
        close("maximum", values.iter().copied().fold(f64::NEG_INFINITY, f64::max), self.number("max"));
        let samples = self.0["index"].as_array().unwrap().iter().zip(self.0["value"].as_array().unwrap());
        assert_eq!(samples.len(), 24, "{what}");
        for (index, value) in samples {
            let index = index.as_u64().unwrap() as usize;
            close(&format!("at {index}"), values[index], value.as_f64().unwrap());
        }
    }
}

fn compare_logits(what: &str, found: &[f64], recorded: &Value, limit: f64) {
    let expected: Vec<Vec<f64>> = serde_json::from_value(recorded.clone()).unwrap();
    let expected = expected.concat();
    assert_eq!(found.len(), expected.len(), "{what}");
    let rms = rms(&expected);
    for (index, (found, expected)) in found.iter().zip(&expected).enumerate() {
        let error = (found - expected).abs() / rms;
        assert!(error <= limit, "{what}: logit {index} is {found}, {error:e} of the rms from {expected}");
    }
}

fn widen(values: &[f32]) -> Vec<f64> {
    values.iter().map(|&v| f64::from(v)).collect()
}

/// Two pictures of the rule that the goldens were made with.
fn pictures(seed: u64, size: usize) -> Vec<u8> {
    (0..2).flat_map(|index| seeded::picture(seed, index, size)).collect()
}

/// The oracle in f64 and each of `targets`, on the full-size network of `forward/{variant}.json`.
fn check_forward(variant: &'static Variant, targets: &[Target]) {
    let golden = testdata::json(&format!("tests/data/forward/{}.json", variant.name));
    let seed = golden["seed"].as_u64().unwrap();
    let checkpoint = seeded::checkpoint(variant, seed).unwrap();
    check_seeded_inputs(variant, &golden, &checkpoint, seed);

    let weights = checkpoint.clone().into_weights(variant, variant.input_size).unwrap();
    let pixels = pictures(seed, variant.input_size);
    let input = widen(&naive::input(&variant.preprocess, variant.input_size, &pixels));
    let oracle = naive::forward(&weights, &input);
    drop(weights);

    let recorded: Vec<Recorded> = golden["layers"].as_array().unwrap().iter().map(Recorded).collect();
    assert!(recorded.len() >= 11, "{}: {} layers recorded", variant.name, recorded.len());
    let names: Vec<&str> = recorded.iter().map(Recorded::name).collect();
    let mut shapes = vec![];
    for recorded in &recorded {
        // fc6 and fc7 are recorded after their ReLU, which is a layer of its own to the oracle.
        let name = match recorded.name() {
            "fc6" => "relu6",
            "fc7" => "relu7",
            name => name,
        };
        let layer = oracle.iter().find(|l| l.name == name).unwrap();
        recorded.compare(&format!("{} {name}, f64 oracle", variant.name), layer.shape, &layer.values, 1e-9);
        shapes.push(layer.shape);
    }
    let logits = &oracle.last().unwrap().values;
    compare_logits(&format!("{}, f64 oracle", variant.name), logits, &golden["logits"], 1e-6);

    for &on in targets {
        let model = Model::from_checkpoint(checkpoint.clone(), &options(on)).unwrap();
        let activations = model.activations(Input::Pixels(&pixels), &names).unwrap();
        for ((recorded, &shape), fast) in recorded.iter().zip(&shapes).zip(activations) {
            let what = format!("{} {}, {on:?}", variant.name, recorded.name());
            assert_eq!(fast.shape, [2, shape.h, shape.w, shape.c], "{what}");
            recorded.compare(&what, shape, &widen(&to_nchw(shape, &fast.values)), on.network_error());
        }
        // Where no layer is kept, steps are fused.
        let mut session = model.session(2, &[]).unwrap();
        session.run(Input::Pixels(&pixels)).unwrap();
        let logits = widen(session.logits().unwrap());
        compare_logits(&format!("{}, {on:?}", variant.name), &logits, &golden["logits"], on.network_error());
        if !on.cuda {
            let expected: Vec<Vec<f64>> = serde_json::from_value(golden["logits"].clone()).unwrap();
            let expected = expected.concat();
            let largest = expected.iter().fold(0.0f64, |a, b| a.max(b.abs()));
            let off = logits.iter().zip(&expected).map(|(l, e)| (l - e).abs() / largest).fold(0.0, f64::max);
            println!("{}: {off:.1e} of the largest logit", variant.name);
            assert!(off <= 1e-5, "{}: {off:e} of the largest logit", variant.name);
        }
        check_top_five(on, session.top_k(5, Score::Prob).unwrap(), &golden);
    }
}

/// Weights and pictures are the rule's: every tensor's shape, first values and sum, every picture's sum.
fn check_seeded_inputs(variant: &Variant, golden: &Value, checkpoint: &Checkpoint, seed: u64) {
    let tensors = golden["tensors"].as_object().unwrap();
    assert_eq!(tensors.len(), checkpoint.tensors.len());
    for (name, recorded) in tensors {
        let tensor = &checkpoint.tensors[name];
        let shape: Vec<usize> = serde_json::from_value(recorded["shape"].clone()).unwrap();
        let first: Vec<f32> = serde_json::from_value(recorded["first"].clone()).unwrap();
        let values = tensor.to_f32().unwrap();
        assert_eq!((&tensor.shape, &values[..first.len()]), (&shape, &first[..]), "{name}");
        let sum: f64 = widen(&values).iter().sum();
        let expected = recorded["sum"].as_f64().unwrap();
        assert!((sum - expected).abs() <= 1e-6 * expected.abs().max(1.0), "{name}: sum {sum}, expected {expected}");
    }
    let count: usize = checkpoint.tensors.values().map(|t| t.len()).sum();
    assert_eq!(count as u64, golden["parameters"].as_u64().unwrap());
    for (index, sum) in golden["image_sums"].as_array().unwrap().iter().enumerate() {
        let picture = seeded::picture(seed, index, variant.input_size);
        assert_eq!(picture.iter().map(|&v| u64::from(v)).sum::<u64>(), sum.as_u64().unwrap(), "picture {index}");
    }
}

/// The recorded classes in their order, but for two whose recorded logits are within twice the target's bound.
fn check_top_five(on: Target, predictions: &[Prediction], golden: &Value) {
    let recorded: Vec<Vec<(usize, f64)>> = serde_json::from_value(golden["top5"].clone()).unwrap();
    let logits: Vec<Vec<f64>> = serde_json::from_value(golden["logits"].clone()).unwrap();
    let bound = on.network_error() * rms(&logits.concat());
    assert_eq!(predictions.len(), 5 * recorded.len());
    for ((predictions, recorded), logits) in predictions.chunks(5).zip(&recorded).zip(&logits) {
        for (prediction, (index, probability)) in predictions.iter().zip(recorded) {
            let margin = (logits[prediction.index] - logits[*index]).abs();
            assert!(prediction.index == *index || margin <= 2.0 * bound, "{prediction:?}, recorded {index}");
            // A probability moves by no more than its logit and the largest one do.
            let moved = (f64::from(prediction.score) / logits_probability(logits, prediction.index)).ln().abs();
            assert!(moved <= 2.0 * bound, "{prediction:?}, recorded {index} at {probability}");
        }
    }
}

fn logits_probability(logits: &[f64], index: usize) -> f64 {
    1.0 / logits.iter().map(|l| (l - logits[index]).exp()).sum::<f64>()
}

fn rms(values: &[f64]) -> f64 {
    (values.iter().map(|v| v * v).sum::<f64>() / values.len() as f64).sqrt()
}

// A test a variant, so that the harness runs them side by side.
macro_rules! forward_goldens {
    ($($test:ident: $index:literal $name:literal;)*) => {$(
        mod $test {
            use super::{VARIANTS, check_forward};
            use crate::device::{CPU, CUDA, CUDA_BF16, CUDA_F16, CUDA_TF32};

            #[test]
            fn cpu() {
                assert_eq!(VARIANTS[$index].name, $name);
                check_forward(&VARIANTS[$index], &[CPU]);
            }

            #[test]
            #[ignore = "full width on the emulated device: a minute each, run by .ci/run"]
            fn cuda() {
                check_forward(&VARIANTS[$index], &[CUDA, CUDA_F16, CUDA_TF32, CUDA_BF16]);
            }
        }
    )*};
}

forward_goldens! {
    forward_torchvision: 0 "torchvision";
    forward_half: 1 "half";
    forward_single_tower: 2 "single-tower";
    forward_paper: 3 "paper";
    forward_caffe: 4 "caffe";
    forward_caffenet: 5 "caffenet";
}

on_every_device! {
    checkpoint_files_give_the_recorded_logits
}

/// Every checkpoint file gives PyTorch's logits; the variant is inferred but for the paper's, which others resemble.
fn checkpoint_files_give_the_recorded_logits(on: Target) {
    let expected = testdata::json("tests/data/checkpoints/expected.json");
    let mut checked = vec![];
    for entry in std::fs::read_dir(testdata::path("tests/data/checkpoints")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        if name == "expected.json" {
            continue;
        }
        let recorded = &expected[name];
        let variant = Variant::by_name(recorded["variant"].as_str().unwrap()).unwrap();
        let options = Options { variant: (variant.name != "torchvision").then_some(variant), ..options(on) };
        let model = Model::load(&path, &options).unwrap();
        assert_eq!(model.network().variant, variant, "{name}");
        let pixels = pictures(recorded["seed"].as_u64().unwrap(), variant.input_size);
        let logits = model.logits(Input::Pixels(&pixels)).unwrap();
        compare_logits(name, &widen(&logits), &recorded["logits"], on.network_error());
        checked.push(name.to_string());
    }
    assert_eq!(checked.len(), 11, "{checked:?}");
}

/// Labels and probabilities of the 40 sample pictures, for both demo checkpoints, by the library alone.
#[test]
fn demo_checkpoints_label_the_samples_as_pytorch_does() {
    let expected = testdata::json("tests/data/demo/expected.json");
    for (checkpoint, recorded) in expected.as_object().unwrap() {
        let path = testdata::path(&format!("samples/{checkpoint}"));
        let model = Model::load(&path, &options(CPU)).unwrap();
        let pictures = recorded["pictures"].as_object().unwrap();
        let file = |name: &String| testdata::path(&name.replace("samples/", "samples/shapes/"));
        let files: Vec<_> = pictures.keys().map(file).collect();
        let results = model.predict_files(&files, 1).unwrap();
        assert_eq!(results.len(), 40);
        let mut right = 0;
        for ((name, recorded), result) in pictures.iter().zip(results) {
            let best = result.unwrap()[0];
            let label = model.label(best.index);
            assert_eq!(label, recorded["label"].as_str().unwrap(), "{checkpoint} {name}");
            let probability = recorded["prob"].as_f64().unwrap();
            assert!((f64::from(best.score) - probability).abs() < 1e-3, "{checkpoint} {name}: {best:?}, {probability}");
            right += u64::from(name.contains(&format!("/{label}/")));
        }
        assert_eq!((right, right), (recorded["right"].as_u64().unwrap(), 38), "{checkpoint}");
    }
}

/// Sample pictures whose best class is another in some precision, because two classes are as good as equal.
const EXCEPTIONS: [&str; 0] = [];

/// In every precision the labels are those of the CPU, whose logits PyTorch's records vouch for, unless the two best classes are
/// within twice the bound of the precision's logits.
#[test]
#[ignore = "half a minute, run by .ci/run"]
fn every_precision_labels_the_samples_as_the_cpu_does() {
    let all: Vec<String> = [CUDA, CUDA_TF32, CUDA_F16, CUDA_BF16].into_iter().flat_map(exceptions).collect();
    assert_eq!(all, EXCEPTIONS, "pictures whose label differs, all within the margin");
}

/// The pictures whose label differs.
fn exceptions(on: Target) -> Vec<String> {
    let mut exceptions: Vec<String> = vec![];
    for checkpoint in ["shapes", "shapes-paper"] {
        let path = testdata::path(&format!("samples/{checkpoint}.safetensors"));
        let [reference, narrow] = [CPU, on].map(|on| Model::load(&path, &options(on)).unwrap());
        let size = reference.network().input_size;
        let recorded = testdata::json("tests/data/demo/expected.json");
        for name in recorded[format!("{checkpoint}.safetensors")]["pictures"].as_object().unwrap().keys() {
            let file = testdata::path(&name.replace("samples/", "samples/shapes/"));
            let mut pixels = vec![0; size * size * 3];
            alexnet::image::load(&file, Default::default(), size, &mut pixels).unwrap();
            let [expected, found] =
                [&reference, &narrow].map(|model| widen(&model.logits(Input::Pixels(&pixels)).unwrap()));
            let bound = on.network_error() * rms(&expected);
            let largest = expected.iter().zip(&found).map(|(e, f)| (e - f).abs()).fold(0.0, f64::max);
            assert!(largest <= bound, "{checkpoint} {name}: a logit is {largest} off, the bound is {bound}");
            let best = |logits: &[f64]| (0..logits.len()).max_by(|&a, &b| logits[a].total_cmp(&logits[b])).unwrap();
            let (label, other) = (best(&expected), best(&found));
            if label != other {
                let margin = expected[label] - expected[other];
                assert!(margin <= 2.0 * bound, "{checkpoint} {name}: class {other}, not {label}, by {margin}");
                exceptions.push(format!("{} {checkpoint} {name}", on.precision.name()));
            }
        }
    }
    exceptions
}
