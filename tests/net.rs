//! Descriptions, printed forms, initialisers, and how a checkpoint's variant is found.

use std::collections::BTreeMap;

use alexnet::Error;
use alexnet::net::init::{Scheme, draw};
use alexnet::net::{Network, Parameter, Variant};
use alexnet::weights::{Checkpoint, DType, Tensor};

use crate::testdata;

fn variant(name: &str) -> &'static Variant {
    Variant::by_name(name).unwrap()
}

#[test]
fn printed_forms_are_pytorchs_byte_for_byte() {
    for name in ["torchvision", "half", "single-tower"] {
        let network = Network::published(variant(name), 1000).unwrap();
        let expected = testdata::bytes(&format!("tests/data/print/{name}.txt"));
        assert_eq!(network.torch_form().unwrap() + "\n", String::from_utf8(expected).unwrap(), "{name}");
    }
    for name in ["paper", "caffe", "caffenet"] {
        let network = Network::published(variant(name), 1000).unwrap();
        assert!(matches!(network.torch_form(), Err(Error::Usage(_))), "{name}");
    }
}

#[test]
fn printed_widths_are_the_networks() {
    let network = Network::with_widths(variant("torchvision"), &[8, 24, 16, 16, 8, 32, 33, 10], 224).unwrap();
    let form = network.torch_form().unwrap();
    for line in [
        "(0): Conv2d(3, 8, kernel_size=(11, 11), stride=(4, 4), padding=(2, 2))",
        "(3): Conv2d(8, 24, kernel_size=(5, 5), stride=(1, 1), padding=(2, 2))",
        "(1): Linear(in_features=288, out_features=32, bias=True)",
        "(6): Linear(in_features=33, out_features=10, bias=True)",
    ] {
        assert!(form.contains(line), "{line}\n{form}");
    }
}

#[test]
fn summary_has_torchinfos_figures() {
    let summary = Network::published(variant("torchvision"), 1000).unwrap().summary(2);
    assert_eq!((summary.total_params, summary.total_mult_adds), (61_100_840, 2 * 714_682_664));
    let row = |name: &str| summary.layers.iter().find(|l| l.name == name).unwrap();
    assert_eq!((row("conv2").params, &row("conv2").output_shape[..]), (307_392, &[2, 192, 27, 27][..]));
    assert_eq!((row("fc8").params, &row("fc8").output_shape[..]), (4_097_000, &[2, 1000][..]));
    assert_eq!((row("pool5").params, row("pool5").mult_adds), (0, 0));
    assert_eq!(summary.params_bytes, 4 * 61_100_840);

    // Two groups halve the weights of conv2, conv4 and conv5.
    let paper = Network::published(variant("paper"), 1000).unwrap().summary(1);
    let params = |name| paper.layers.iter().find(|l| l.name == name).unwrap().params;
    assert_eq!(["conv2", "conv4", "conv5"].map(params), [307_456, 663_936, 442_624]);
}

/// Mean and standard deviation.
fn moments(values: &[f32]) -> (f64, f64) {
    let n = values.len() as f64;
    let mean = values.iter().map(|&v| f64::from(v)).sum::<f64>() / n;
    (mean, (values.iter().map(|&v| (f64::from(v) - mean).powi(2)).sum::<f64>() / n).sqrt())
}

/// Checks mean 0 and `deviation` within five standard errors, and the shape by its kurtosis and largest value.
fn check_normal(what: &str, values: &[f32], deviation: f64) {
    let (mean, found) = moments(values);
    let n = values.len() as f64;
    assert!(mean.abs() < 5.0 * deviation / n.sqrt(), "{what}: mean {mean}");
    assert!((found / deviation - 1.0).abs() < 5.0 / (2.0 * n).sqrt(), "{what}: deviation {found}, not {deviation}");
    let fourth = values.iter().map(|&v| (f64::from(v) / deviation).powi(4)).sum::<f64>() / n;
    assert!((fourth - 3.0).abs() < 5.0 * (96.0 / n).sqrt(), "{what}: kurtosis {fourth}");
}

fn check_uniform(what: &str, values: &[f32], bound: f64) {
    let n = values.len() as f64;
    let (mean, found) = moments(values);
    let deviation = bound / 3f64.sqrt();
    assert!(mean.abs() < 5.0 * deviation / n.sqrt(), "{what}: mean {mean}");
    // The variance of a uniform's square is 4/45 of its bound's fourth power.
    assert!((found / deviation - 1.0).abs() < 5.0 * (0.2 / n).sqrt(), "{what}: deviation {found}, not {deviation}");
    let largest = values.iter().map(|v| f64::from(v.abs())).fold(0.0, f64::max);
    assert!(largest <= bound * (1.0 + 1e-6) && largest > bound * (1.0 - 20.0 / n), "{what}: {largest} of {bound}");
}

fn initialised(name: &str, scheme: Scheme, seed: u64) -> Vec<(Parameter, Vec<f32>, Vec<f32>)> {
    draw(&Network::published(variant(name), 10).unwrap(), scheme, seed)
}

#[test]
fn kaiming_initialisation() {
    for (parameter, weight, bias) in initialised("half", Scheme::Kaiming, 1) {
        let deviation = match &parameter.weight_shape[..] {
            [k, _, r, s] => (2.0 / (k * r * s) as f64).sqrt(),
            _ => 0.01,
        };
        check_normal(parameter.layer, &weight, deviation);
        assert!(bias.iter().all(|&b| b == 0.0), "{}", parameter.layer);
    }
}

#[test]
fn pytorch_initialisation() {
    let mut biases = vec![];
    for (parameter, weight, bias) in initialised("paper", Scheme::Pytorch, 2) {
        let bound = (parameter.weight_shape[1..].iter().product::<usize>() as f64).powf(-0.5);
        check_uniform(parameter.layer, &weight, bound);
        biases.extend(bias.iter().map(|&b| b / bound as f32));
    }
    check_uniform("all biases, scaled", &biases, 1.0);
}

#[test]
fn paper_initialisation() {
    for (parameter, weight, bias) in initialised("paper", Scheme::Paper, 3) {
        check_normal(parameter.layer, &weight, 0.01);
        let expected = f32::from(["conv2", "conv4", "conv5", "fc6", "fc7"].contains(&parameter.layer) as u8);
        assert!(bias.iter().all(|&b| b == expected), "{}", parameter.layer);
    }
}

#[test]
fn seeds_decide_and_tensors_are_independent() {
    let draw = |seed| initialised("half", Scheme::Kaiming, seed).into_iter().map(|(_, w, _)| w).collect::<Vec<_>>();
    let (a, b, other) = (draw(7), draw(7), draw(8));
    assert!(a == b && a != other);
    // conv4 and conv3 of half draw the same number of values; equal streams would make them equal up to scale.
    let correlation = |x: &[f32], y: &[f32]| {
        let ((_, sx), (_, sy)) = (moments(x), moments(y));
        let n = x.len().min(y.len());
        let sum: f64 = x.iter().zip(y).map(|(&x, &y)| f64::from(x) * f64::from(y)).sum();
        (sum / n as f64 / sx / sy, 5.0 / (n as f64).sqrt())
    };
    for i in 0..a.len() {
        for j in 0..i {
            let (found, limit) = correlation(&a[i], &a[j]);
            assert!(found.abs() < limit, "layers {i} and {j}: {found}");
        }
    }
}

/// A checkpoint of zeros with the variant's names and these widths.
fn zeros(name: &str, widths: [usize; 8], metadata: Option<&str>) -> Checkpoint {
    let network = Network::with_widths(variant(name), &widths, variant(name).input_size).unwrap();
    let tensor = |shape: Vec<usize>| {
        let bytes = vec![0; 2 * shape.iter().product::<usize>()];
        Tensor::new(DType::F16, shape, bytes)
    };
    let tensors = network.parameters().flat_map(|p| {
        let bias = tensor(vec![p.weight_shape[0]]);
        [(p.bias(), bias), (p.weight(), tensor(p.weight_shape))]
    });
    let tensors: BTreeMap<_, _> = tensors.collect();
    Checkpoint {
        path: "zeros".into(),
        tensors,
        variant: metadata.map(Into::into),
        labels: None,
        metadata: BTreeMap::new(),
    }
}

#[test]
fn a_variant_is_found_from_metadata_names_topology_and_widths() {
    let narrow = [8, 12, 16, 16, 8, 32, 32, 10];
    let half_widths = {
        let mut widths = variant("half").widths();
        widths[7] = 10;
        widths
    };
    let found = |c: Checkpoint| c.choose_variant(None).map(|v| v.name);
    assert_eq!(found(zeros("torchvision", narrow, None)).unwrap(), "torchvision");
    assert_eq!(found(zeros("half", narrow, None)).unwrap(), "torchvision", "the same function at these widths");
    assert_eq!(found(zeros("half", half_widths, None)).unwrap(), "half");
    assert_eq!(found(zeros("single-tower", narrow, None)).unwrap(), "single-tower");
    assert_eq!(found(zeros("paper", narrow, Some("caffe"))).unwrap(), "caffe");
    let explicit = zeros("paper", narrow, Some("caffe")).choose_variant(Some(variant("caffenet"))).unwrap();
    assert_eq!(explicit.name, "caffenet");

    let ambiguous = found(zeros("caffe", narrow, None)).unwrap_err();
    let text = ambiguous.to_string();
    assert_eq!(ambiguous.exit_code(), 2);
    assert!(["--model paper", "--model caffe", "--model caffenet"].iter().all(|c| text.contains(c)), "{text}");

    let unknown = found(zeros("paper", narrow, Some("lenet"))).unwrap_err();
    assert_eq!(unknown.exit_code(), 4);
    let mut stranger = zeros("paper", narrow, None);
    stranger.tensors = [("encoder.weight".to_string(), stranger.tensors.remove("conv1.weight").unwrap())].into();
    assert_eq!(found(stranger).unwrap_err().exit_code(), 4);
}

#[test]
fn labels_come_from_file_metadata_or_imagenet() {
    let narrow = [8, 12, 16, 16, 8, 32, 32, 3];
    let mut checkpoint = zeros("torchvision", narrow, None);
    assert_eq!(checkpoint.choose_labels(None, 3).unwrap(), None);
    assert_eq!(checkpoint.choose_labels(None, 1000).unwrap().unwrap()[..2], ["tench", "goldfish"]);
    let names = |n: usize| (0..n).map(|i| format!("label {i}")).collect::<Vec<_>>();
    let folder = tempfile::tempdir().unwrap();
    let file = |n: usize| {
        let path = folder.path().join(format!("{n}.txt"));
        std::fs::write(&path, names(n).join("\n")).unwrap();
        path
    };
    assert_eq!(checkpoint.choose_labels(Some(&file(3)), 3).unwrap().unwrap(), names(3));
    assert_eq!(checkpoint.choose_labels(Some(&file(4)), 3).unwrap_err().exit_code(), 2);
    checkpoint.labels = Some(names(2));
    assert_eq!(checkpoint.choose_labels(None, 3).unwrap_err().exit_code(), 4);
    assert_eq!(checkpoint.choose_labels(None, 2).unwrap().unwrap(), names(2));
}

#[test]
fn all_non_finite_tensors_are_named() {
    let mut checkpoint = zeros("torchvision", [8, 12, 16, 16, 8, 32, 32, 10], None);
    for (name, value) in [("features.0.weight", f32::NAN), ("classifier.6.bias", f32::NEG_INFINITY)] {
        let tensor = &checkpoint.tensors[name];
        let mut values = vec![0.0; tensor.len()];
        values[5] = value;
        let tensor = Tensor::from_f32(tensor.shape.clone(), &values);
        checkpoint.tensors.insert(name.into(), tensor);
    }
    let error = checkpoint.into_weights(variant("torchvision"), 224).unwrap_err();
    let Error::Weights { problems, .. } = &error else { panic!("{error}") };
    assert_eq!(problems.len(), 2, "{error}");
    assert!(problems[0].starts_with("classifier.6.bias") && problems[1].starts_with("features.0.weight"), "{error}");
    assert!(problems.iter().all(|p| p.contains("element 5")), "{error}");
}
