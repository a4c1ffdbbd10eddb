//! Fully connected layers through cuBLASLt: the emulated one, on a GPU the machine's. Without one these tests pass.

use alexnet::Fc;
use alexnet::backend::{Backend, Input};
use alexnet::cpu::naive;
use alexnet::cuda::{CudaBackend, Element, Settings, WORKSPACE_BYTES};
use alexnet::net::{Layer, Network, Node, Op, Parameter, Shape, VARIANTS, Variant};
use alexnet::plan::Plan;
use alexnet::weights::{LayerWeights, Weights};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::cases::uniform;
use crate::device::{self, CUDA, CUDA_BF16, CUDA_F16, CUDA_TF32, Target, has_cublaslt};
use crate::kernels::{bits, case, check, check_sums_beyond_f16, nmse, random_linear, run, to_nchw};

const TARGETS: [Target; 4] = [CUDA, CUDA_TF32, CUDA_F16, CUDA_BF16];

fn by_cublaslt(on: Target) -> Target {
    Target { fc: Some(Fc::CublasLt), ..on }
}

/// Odd sizes too, whose rows are padded in the filter and not in the input; with ReLU and without, as logits and as hidden
/// layers.
#[test]
fn random_shapes_match_the_oracle() {
    if has_cublaslt() {
        check(by_cublaslt(CUDA_F16), random_linear, 1.0, false);
    }
}

#[test]
#[ignore = "half a minute, run by .ci/run"]
fn random_shapes_match_the_oracle_in_other_precisions() {
    if has_cublaslt() {
        [CUDA, CUDA_TF32, CUDA_BF16].into_iter().for_each(|on| check(by_cublaslt(on), random_linear, 1.0, false));
    }
}

/// Three fully connected layers on (2, 2, 12) values.
fn network() -> Network {
    let layer = |name, op| Layer { name, module: name, op };
    let linear = |name| layer(name, Op::Linear { out_features: 0 });
    let layers = vec![linear("fc6"), layer("relu6", Op::Relu), linear("fc7"), layer("relu7", Op::Relu), linear("fc8")];
    // Leaked: descriptions are constants everywhere else.
    let variant: &'static Variant = Box::leak(Box::new(Variant {
        name: "fully connected",
        input_size: 2,
        preprocess: VARIANTS[0].preprocess,
        layers: Box::leak(layers.into_boxed_slice()),
        torch_class: None,
    }));
    let mut input = Shape { h: 2, w: 2, c: 12 };
    let nodes = variant.layers.iter().zip([40, 40, 32, 32, 7]).map(|(layer, c)| {
        let output = Shape { h: 1, w: 1, c };
        Node { layer, input: std::mem::replace(&mut input, output), output }
    });
    Network { variant, input_size: 2, nodes: nodes.collect() }
}

/// A network's logits, from cuBLASLt and from our own kernels, against the f64 oracle. Left to itself, the number of images
/// decides which of the two it is, to the bit.
#[test]
fn networks_match_the_oracle_and_our_own_kernels() {
    if !has_cublaslt() {
        return;
    }
    let network = network();
    for on in TARGETS {
        let mut rng = ChaCha8Rng::seed_from_u64(22);
        let mut draw =
            |count: usize, bound: f32| -> Vec<f32> { (0..count).map(|_| bound * uniform(&mut rng)).collect() };
        let mut layer = |p: &Parameter| {
            let bound = (6.0 / p.fan_in() as f32).sqrt();
            let weight = draw(p.weight_shape[0] * p.fan_in(), bound);
            // The bias is not rounded: cuBLASLt gets one that is.
            LayerWeights {
                weight: weight.into_iter().map(|v| on.round(v)).collect(),
                bias: draw(p.weight_shape[0], bound),
            }
        };
        let layers = network.parameters().map(|p| layer(&p)).collect();
        let weights = Weights::new(network.clone(), layers).unwrap();
        let values: Vec<f32> = draw(33 * 48, 1.0).into_iter().map(|v| on.round(v)).collect();
        let input: Vec<f64> = to_nchw(network.input(), &values).into_iter().map(f64::from).collect();
        let expected = naive::forward(&weights, &input).pop().unwrap().values;
        let mut sessions = [Some(Fc::CublasLt), Some(Fc::Own), None].map(|fc| {
            let backend = device::backend(Target { fc, ..on }, weights.clone());
            let by = if fc == Some(Fc::Own) { "layers by own kernels" } else { "layers by cuBLASLt 1" };
            assert!(backend.description().contains(by), "{}", backend.description());
            backend.session(Plan::new(&network, 33, &[]).unwrap()).unwrap()
        });
        for images in [1, 2, 9, 33] {
            let [cublaslt, own, either] = sessions.each_mut().map(|session| {
                let runs = [(); 2].map(|()| {
                    session.run(Input::Tensor(&values[..images * 48])).unwrap();
                    session.logits().unwrap().to_vec()
                });
                assert_eq!(bits(&runs[0]), bits(&runs[1]), "{on:?}, {images} images: two runs differ");
                let error = nmse(&runs[0], &expected[..images * 7]).sqrt();
                assert!(error <= on.network_error(), "{on:?}, {images} images: {error:e} of the logits' rms off");
                runs[0].clone()
            });
            // The emulated cuBLASLt sums float32 as our own GEMM does; a rounded bias shows.
            if on.element() != Element::F32 {
                assert_ne!(bits(&cublaslt), bits(&own), "{on:?}, {images} images: one and the same way");
            }
            let chosen = if images > 8 { &cublaslt } else { &own };
            assert_eq!(bits(&either), bits(chosen), "{on:?}, {images} images");
        }
    }
}

/// Logits get the bias in float32, other outputs in their own type.
#[test]
fn a_bias_is_of_its_outputs_type() {
    if !has_cublaslt() {
        return;
    }
    let case = case("linear", Op::Linear { out_features: 0 }, Shape { h: 1, w: 1, c: 8 }, Shape { h: 1, w: 1, c: 3 });
    let bias = [1.0 + 2f32.powi(-20), -1.0 - 2f32.powi(-9), 65_519.0];
    for on in TARGETS {
        for hidden in [false, true] {
            let mut values = [0.0; 24].into_iter().chain(bias);
            let weights = case.weights_with(VARIANTS[0].preprocess, false, hidden, || values.next().unwrap());
            let found = run(by_cublaslt(on), &weights, 1, Input::Tensor(&[1.0; 8]));
            let expected = bias.map(|value| if hidden { on.store(value) } else { value });
            assert_eq!(bits(&found), bits(&expected), "{on:?}, hidden {hidden}");
        }
    }
}

/// A bias that f16 does not hold is our own kernels' where the choice is free, else an error.
#[test]
fn a_bias_beyond_f16_is_not_for_cublaslt() {
    if !has_cublaslt() {
        return;
    }
    let case = case("linear", Op::Linear { out_features: 0 }, Shape { h: 1, w: 1, c: 8 }, Shape { h: 1, w: 1, c: 1 });
    let weights = || {
        let mut values = [0.0; 8].into_iter().chain([1e5]);
        case.weights(false, || values.next().unwrap())
    };
    let open = |on: Target, fc| {
        CudaBackend::new(weights(), device::cuda(), Settings { precision: on.precision, fc, ..Settings::default() })
    };
    let error = open(CUDA_F16, Some(Fc::CublasLt)).err().unwrap();
    assert!(error.exit_code() == 5 && error.to_string().contains("layer has a bias of 100000"), "{error}");
    assert!(error.to_string().contains("--fc own"), "{error}");
    let description = open(CUDA_F16, None).unwrap().description();
    assert!(description.contains("own kernels (layer has a bias of 100000"), "{description}");
    open(CUDA_BF16, Some(Fc::CublasLt)).unwrap();
}

/// tf32 is asked for where it is to be computed in, and float32 where not: the input is halfway between two neighbours in
/// tf32. Said of the emulated cuBLASLt alone: a real one may compute in more than it was asked for.
#[test]
fn tf32_rounds_the_input() {
    if !has_cublaslt() || device::preload().is_none() {
        return;
    }
    let case = case("linear", Op::Linear { out_features: 0 }, Shape { h: 1, w: 1, c: 1 }, Shape { h: 1, w: 1, c: 1 });
    let value = 1.0 + 2f32.powi(-11);
    for (on, expected) in [(CUDA, value), (CUDA_TF32, 1.0 + 2f32.powi(-10))] {
        let mut values = [1.0, 0.0].into_iter();
        let weights = case.weights(false, || values.next().unwrap());
        assert_eq!(run(by_cublaslt(on), &weights, 1, Input::Tensor(&[value])), [expected], "{on:?}");
    }
}

/// Nothing deterministic is left to cuBLASLt.
#[test]
fn deterministic_layers_are_our_own() {
    let network = network();
    let zeros = |p: Parameter| {
        let width = p.weight_shape[0];
        LayerWeights { weight: vec![0.0; width * p.fan_in()], bias: vec![0.0; width] }
    };
    let weights = || Weights::new(network.clone(), network.parameters().map(zeros).collect()).unwrap();
    let open =
        |fc| CudaBackend::new(weights(), device::cuda(), Settings { deterministic: true, fc, ..Settings::default() });
    let _ = has_cublaslt(); // where there is one, it must be left alone
    let description = open(None).unwrap().description();
    assert!(description.ends_with("fully connected layers by own kernels, deterministic"), "{description}");
    assert_eq!(open(Some(Fc::CublasLt)).err().unwrap().exit_code(), 2);
}

/// ReLU keeps a NaN, which an overflow must not hide behind.
#[test]
fn a_nan_survives_relu() {
    if !has_cublaslt() {
        return;
    }
    let case = case("linear", Op::Linear { out_features: 0 }, Shape { h: 1, w: 1, c: 16 }, Shape { h: 1, w: 1, c: 9 });
    for on in TARGETS {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let weights = case.weights_with(VARIANTS[0].preprocess, true, true, || on.round(uniform(&mut rng)));
        let mut values = [1.0; 3 * 16];
        values[20] = f32::NAN;
        let found: Vec<_> =
            run(by_cublaslt(on), &weights, 3, Input::Tensor(&values)).iter().map(|v| v.is_nan()).collect();
        assert_eq!(found, [[false; 9], [true; 9], [false; 9]].concat(), "{on:?}");
    }
}

#[test]
fn sums_beyond_f16_become_infinities() {
    if has_cublaslt() {
        check_sums_beyond_f16(by_cublaslt(CUDA_F16));
    }
}

/// A product that takes all of the workspace that a session has.
#[test]
fn an_algorithm_may_take_the_whole_workspace() {
    if !has_cublaslt() {
        return;
    }
    let (images, outputs) = (2048, WORKSPACE_BYTES / 4 / 2048);
    let (input, output) = (Shape { h: 1, w: 1, c: 2 }, Shape { h: 1, w: 1, c: outputs });
    let case = case("linear", Op::Linear { out_features: 0 }, input, output);
    let mut rng = ChaCha8Rng::seed_from_u64(2);
    let weights = case.weights(false, || rng.random_range(-8i8..8).into());
    let values: Vec<f32> = (0..images * 2).map(|_| rng.random_range(-8i8..8).into()).collect();
    let backend = device::backend(by_cublaslt(CUDA), weights.clone());
    let mut session = backend.session(Plan::new(weights.network(), images, &[]).unwrap()).unwrap();
    session.run(Input::Tensor(&values)).unwrap();
    let logits = session.logits().unwrap();
    let layer = &weights.layers()[0];
    for (index, &found) in logits.iter().enumerate() {
        let (image, k) = (index / outputs, index % outputs);
        let sum = values[2 * image] * layer.weight[2 * k] + values[2 * image + 1] * layer.weight[2 * k + 1];
        assert_eq!(found, sum + layer.bias[k], "image {image}, output {k}");
    }
}
