//! Steps run by themselves, as the kernel benchmarks run them: what they compute, on which sets of operands.

use std::io::Write;
use std::rc::Rc;

use alexnet::cpu::naive;
use alexnet::cuda::lone::{By, Lane, Lone, LoneSteps, Operands, Round, Source};
use alexnet::net::{Network, Op, VARIANTS, Variant};
use alexnet::plan::{Step, StepKind};
use alexnet::weights::{LayerWeights, Weights};

use crate::cases::Case;
use crate::device::{self, CUDA, CUDA_BF16, CUDA_F16, CUDA_TF32, Target, has_cublaslt};
use crate::kernels::{bits, nmse, to_nchw, to_nhwc};
use crate::on_every_precision;

#[path = "../benches/common/cudnn.rs"]
mod cudnn;

use cudnn::{Convolution, Cudnn};

const SEED: u64 = 3;
/// Rounds of one set of operands, and of several: a few, since an emulated device takes its time.
const ONE_SET: Round = Round { cold_bytes: 0, runs: 1 };

on_every_precision! {
    steps_match_the_oracle
    pairs_give_the_bits_of_their_fused_step
}

/// A network with the shapes of a published one but for its widths.
fn narrow(variant: &str) -> Network {
    let variant = Variant::by_name(variant).unwrap();
    Network::with_widths(variant, &[32, 32, 24, 32, 32, 40, 64, 9], variant.input_size).unwrap()
}

/// The output of one round.
fn output(steps: &LoneSteps) -> Vec<f32> {
    steps.enqueue().unwrap();
    steps.output().unwrap()
}

/// What `step` gives exactly for `images` images of `operands`, (N, H, W, C); `None` for steps of several layers.
fn oracle(step: &Step, images: usize, operands: &Operands) -> Option<Vec<f64>> {
    let values = match (&operands.source, step.kind) {
        (Source::Values(values), _) => values,
        (Source::Pixels(pixels), StepKind::Preprocess { preprocess, depth: None }) => {
            let channel = |index: usize| index % 3;
            let source = |index: usize| pixels[index / 3 * 3 + preprocess.source(channel(index))];
            let value = |index: usize| f64::from(preprocess.apply(source(index), channel(index)));
            return Some((0..images * step.output.len()).map(value).collect());
        }
        (Source::Pixels(_), _) => return None,
    };
    let (op, relu, tap) = match step.kind {
        StepKind::Conv { conv, relu, unpooled: None, .. } => (Op::Conv(conv), relu, conv.kernel * conv.kernel),
        StepKind::Linear { relu, .. } => (Op::Linear { out_features: 0 }, relu, step.input.h * step.input.w),
        StepKind::MaxPool(pool) => (Op::MaxPool(pool), false, 0),
        StepKind::Lrn(lrn) => (Op::Lrn(lrn), false, 0),
        _ => return None,
    };
    let case = Case { variant: "lone", name: "layer", op, input: step.input, output: step.output };
    let network = case.weights(relu, || 0.0).network().clone();
    let layers = operands.weights.iter().flatten().map(|(filter, bias)| {
        // (K, R, S, C) as kernels read them to (K, C, R, S).
        let channels = filter.len() / bias.len() / tap;
        let taps = alexnet::net::Shape { h: tap, w: 1, c: channels };
        LayerWeights { weight: to_nchw(taps, filter), bias: bias.clone() }
    });
    let weights = Weights::new(network, layers.collect()).unwrap();
    let input: Vec<f64> = to_nchw(step.input, values).into_iter().map(f64::from).collect();
    Some(to_nhwc(step.output, &naive::forward(&weights, &input).last().unwrap().values))
}

/// Steps of two networks, one with a rearranged first layer, one with groups and LRN.
fn steps_match_the_oracle(on: Target) {
    let lane = Lane::open(device::cuda()).unwrap();
    let mut compared = vec![];
    for (variant, images) in [("torchvision", 1), ("paper", 2)] {
        let lones = Lone::as_run(&narrow(variant), images, &on.rules()).unwrap();
        // Both first layers are rearranged alike, and take the longest.
        for lone in lones.iter().skip(if variant == "paper" { 2 } else { 0 }) {
            let [step] = lone.steps() else { unreachable!("as it is run") };
            let operands = Operands::random(lone, SEED);
            let Some(expected) = oracle(step, images, &operands) else { continue };
            let found = output(&lane.steps(lone, By::Own, SEED, ONE_SET).unwrap());
            let weighted = matches!(step.kind, StepKind::Conv { .. } | StepKind::Linear { .. });
            let limit = on.layer_nmse(!weighted || !step.logits);
            let error = nmse(&found, &expected);
            assert!(error <= limit, "{}, {on:?}: NMSE {error:e}", lone.name());
            compared.push(format!("{variant} {}", step.layers[0]));
        }
    }
    for variant in ["torchvision", "paper"] {
        for layer in ["conv1", "pool1", "conv2", "conv3", "conv4", "fc6", "fc7", "fc8"] {
            let has = compared.contains(&format!("{variant} {layer}"));
            assert!(has || variant == "paper" && ["conv1", "pool1"].contains(&layer), "{layer} is not in {compared:?}");
        }
    }
}

/// Two steps, the second on what the first gives, and one kernel for both: the same bits, if GEMM_K is not split.
fn pairs_give_the_bits_of_their_fused_step(on: Target) {
    let lane = Lane::open(device::cuda()).unwrap();
    let rules = alexnet::cuda::Rules { deterministic: true, ..on.rules() };
    for [fused, separate] in Lone::pairs(&narrow("paper"), 1, &rules).unwrap() {
        let [fused, separate] = [fused, separate].map(|lone| lane.steps(&lone, By::Own, SEED, ONE_SET).unwrap());
        let found = output(&fused);
        assert_eq!(bits(&found), bits(&output(&separate)), "{}", fused.kernel());
        assert!(found.iter().any(|value| *value != 0.0), "{}", fused.kernel());
    }
}

/// A round takes the sets in turn, as often as asked for and then to the end of the last turn, and each gives the same.
#[test]
fn rounds_go_through_all_sets() {
    let lane = Lane::open(device::cuda()).unwrap();
    let lones = Lone::as_run(&narrow("torchvision"), 2, &CUDA_F16.rules()).unwrap();
    let fc8 = lones.last().unwrap();
    let one = lane.steps(fc8, By::Own, SEED, ONE_SET).unwrap();
    assert_eq!((one.sets(), one.runs()), (1, 1));
    let round = Round { cold_bytes: 2 * one.bytes() + 1, runs: 4 };
    let several = lane.steps(fc8, By::Own, SEED, round).unwrap();
    assert_eq!((several.sets(), several.runs()), (3, 6));
    assert!(several.bytes() >= round.cold_bytes);
    let begin = lane.lap().unwrap();
    // The last set's output was not written before: a round begins with the first.
    let outputs = [output(&several), output(&several), output(&one)];
    assert!(lane.since(&begin).unwrap() > std::time::Duration::ZERO);
    assert_eq!(bits(&outputs[0]), bits(&outputs[2]));
    assert_eq!(bits(&outputs[1]), bits(&outputs[2]));
    assert_eq!(outputs[0].len(), 2 * 9);
}

#[test]
fn cublaslt_computes_fully_connected_layers_alone() {
    let lane = Lane::open(device::cuda()).unwrap();
    let lones = Lone::as_run(&narrow("torchvision"), 2, &CUDA_F16.rules()).unwrap();
    let [conv, fc6] = ["conv1", "fc6"].map(|name| lones.iter().find(|lone| lone.name().starts_with(name)).unwrap());
    let error = lane.steps(conv, By::CublasLt, SEED, ONE_SET).err().unwrap().to_string();
    assert!(error.contains("conv1"), "{error}");
    if has_cublaslt() {
        let steps = lane.steps(fc6, By::CublasLt, SEED, ONE_SET).unwrap();
        assert!(steps.kernel().starts_with("cuBLASLt"), "{}", steps.kernel());
        let error = nmse(&output(&steps), &oracle(&fc6.steps()[0], 2, &Operands::random(fc6, SEED)).unwrap());
        assert!(error <= CUDA_F16.layer_nmse(true), "NMSE {error:e}");
    }
}

/// The kernel benchmarks' cuDNN: the imitated one, on a GPU the machine's. Without one this passes, which is said.
#[test]
fn cudnn_convolves_as_the_oracle() {
    let lane = Rc::new(Lane::open(device::cuda()).unwrap());
    device::load_cudnn();
    let cudnn = match Cudnn::open(&lane) {
        Ok(cudnn) => cudnn,
        Err(reason) => {
            assert!(device::preload().is_none(), "the imitated cuDNN: {reason}");
            let _ = writeln!(std::io::stderr(), "the test of cuDNN passes unseen: {reason}");
            return;
        }
    };
    let network = narrow("paper");
    for on in [CUDA, CUDA_TF32, CUDA_F16, CUDA_BF16] {
        let lones = Lone::as_planned(&network, 2, &on.rules()).unwrap();
        // In two groups, and in one.
        for layer in ["conv2", "conv3"] {
            let lone = lones.iter().find(|lone| lone.name().starts_with(layer)).unwrap();
            let round = Round { cold_bytes: 1 << 20, runs: 3 };
            let convolution = Convolution::new(&cudnn, lone, SEED, round).unwrap();
            assert!(convolution.runs() >= 3 && convolution.how().starts_with("cuDNN 9"), "{}", convolution.how());
            convolution.enqueue();
            let expected = oracle(&lone.steps()[0], 2, &Operands::random(lone, SEED)).unwrap();
            let error = nmse(&convolution.output().unwrap(), &expected);
            // Biases are of the activations' type here, and rounded already.
            assert!(error <= on.layer_nmse(true), "{layer}, {on:?}: NMSE {error:e}");
        }
        let refused = |lone: &Lone| Convolution::new(&cudnn, lone, SEED, ONE_SET).err().unwrap();
        assert!(refused(&lones[0]).contains("input"), "{}", refused(&lones[0]));
    }
}

/// The same layer of two networks is the same work, and another batch or precision is not.
#[test]
fn work_is_told_apart() {
    let lones = |variant: &str, images| {
        let network = Network::published(Variant::by_name(variant).unwrap(), 1000).unwrap();
        Lone::as_run(&network, images, &CUDA_F16.rules()).unwrap()
    };
    let fc7 = |lones: &[Lone]| lones.iter().find(|lone| lone.name().starts_with("fc7")).unwrap().clone();
    let (a, b) = (fc7(&lones("torchvision", 1)), fc7(&lones("paper", 1)));
    assert!(a.same_work(&b) && !a.same_work(&fc7(&lones("torchvision", 2))));
    assert!(!a.same_work(lones("torchvision", 1).last().unwrap()));
    for variant in &VARIANTS {
        let lones = lones(variant.name, 1);
        let repeated = lones.iter().enumerate().filter(|(i, a)| lones[..*i].iter().any(|b| a.same_work(b)));
        let names: Vec<_> = repeated.map(|(_, lone)| lone.name()).collect();
        assert!(names.iter().all(|name| name.starts_with("conv") || name.starts_with("fc")), "{names:?}");
    }
}
