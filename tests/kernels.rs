//! Every kernel of every backend against the f64 oracle, through one-layer networks.

use alexnet::Precision;
use alexnet::backend::Input;
use alexnet::cpu::{Algorithm, naive};
use alexnet::net::{Conv, Lrn, LrnScope, Network, Op, Parameter, Pool, Shape, VARIANTS};
use alexnet::plan::Plan;
use alexnet::weights::{LayerWeights, Weights, seeded};
use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::cases::{Case, published_layers, uniform};
use crate::device::{self, CPU, CUDA, CUDA_BF16, CUDA_F16, CUDA_TF32, Target};
use crate::on_every_target;

/// Random shapes a kernel: `ALEXNET_TEST_SHAPES`, 200 in `.ci/run`, else enough for most mistakes.
pub fn shapes() -> u64 {
    std::env::var("ALEXNET_TEST_SHAPES").map_or(60, |count| count.parse().expect("ALEXNET_TEST_SHAPES is a number"))
}

on_every_target! {
    convolutions_of_random_shapes
    fully_connected_layers_of_random_shapes
    lrn_of_random_shapes
    max_pools_of_random_shapes_are_exact
    adaptive_average_pools_of_random_shapes
    integer_sums_match_bit_for_bit
    a_nan_survives_relu_and_pools
    infinities_survive_pools
    preprocessing_is_exact_for_every_variant
    first_layers_take_pixels_and_tensors
    narrow_networks_match_the_oracle_layer_by_layer
}

/// Output (N, H, W, C) of the one layer of `weights`, with its ReLU if it has one.
pub fn run(on: Target, weights: &Weights, images: usize, input: Input<'_>) -> Vec<f32> {
    let plan = Plan::new(weights.network(), images, &["layer"]).unwrap();
    let mut session = device::backend(on, weights.clone()).session(plan).unwrap();
    // Twice: the second run works in buffers that hold the first one's values.
    let [first, second] = [(); 2].map(|()| {
        session.run(input).unwrap();
        session.activation("layer").unwrap().values
    });
    assert_eq!(bits(&first), bits(&second), "the second run differs from the first");
    second
}

/// The oracle's output on (N, H, W, C) values, in the same order.
pub fn run_oracle(weights: &Weights, values: &[f32]) -> Vec<f64> {
    let node = weights.network().nodes.last().unwrap(); // the layer, its ReLU, or the pool that changes nothing
    let input: Vec<f64> = to_nchw(weights.network().input(), values).into_iter().map(f64::from).collect();
    to_nhwc(node.output, &naive::forward(weights, &input).last().unwrap().values)
}

pub fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|v| v.to_bits()).collect()
}

/// (N, H, W, C) to (N, C, H, W).
pub fn to_nchw<T: Copy>(Shape { h, w, c }: Shape, values: &[T]) -> Vec<T> {
    transpose(values, h * w, c)
}

/// (N, C, H, W) to (N, H, W, C).
pub fn to_nhwc<T: Copy>(Shape { h, w, c }: Shape, values: &[T]) -> Vec<T> {
    transpose(values, c, h * w)
}

/// (N, rows, columns) to (N, columns, rows).
fn transpose<T: Copy>(values: &[T], rows: usize, columns: usize) -> Vec<T> {
    let images = values.chunks_exact(rows * columns);
    images.flat_map(|v| (0..columns).flat_map(move |j| (0..rows).map(move |i| v[i * columns + j]))).collect()
}

pub fn nmse(found: &[f32], expected: &[f64]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let error: f64 = found.iter().zip(expected).map(|(&f, e)| (f64::from(f) - e).powi(2)).sum();
    let scale: f64 = expected.iter().map(|e| e * e).sum();
    if error == 0.0 { 0.0 } else { error / scale }
}

pub fn case(name: &'static str, op: Op, input: Shape, output: Shape) -> Case {
    Case { variant: "random", name, op, input, output }
}

/// A convolution of random shape whose every output exists.
pub fn random_conv(rng: &mut impl Rng) -> Case {
    let conv = Conv {
        groups: rng.random_range(1..=3),
        out_channels: 0, // the width is the output shape's
        kernel: rng.random_range(1..=11),
        stride: rng.random_range(1..=4),
        padding: rng.random_range(0..=5),
    };
    let least = conv.kernel.saturating_sub(2 * conv.padding).max(1);
    let mut side = || rng.random_range(least..=least + 20);
    let (h, w) = (side(), side());
    let count = |size: usize| (size + 2 * conv.padding - conv.kernel) / conv.stride + 1;
    // Groups of 8 channels and of others: on tensor cores they take different kernels.
    let channels = if rng.random_ratio(1, 4) { 8 * rng.random_range(1..=2) } else { rng.random_range(1..=9) };
    let input = Shape { h, w, c: conv.groups * channels };
    // Now and then more filters than one tile of any kernel has.
    let filters = if rng.random_ratio(1, 8) { rng.random_range(65..=150) } else { rng.random_range(1..=20) };
    let output = Shape { h: count(h), w: count(w), c: conv.groups * filters };
    case("conv", Op::Conv(conv), input, output)
}

pub fn random_linear(rng: &mut impl Rng) -> Case {
    let side = rng.random_range(1..=6);
    let input = Shape { h: side, w: side, c: rng.random_range(1..=40) };
    let output = Shape { h: 1, w: 1, c: rng.random_range(1..=100) };
    case("linear", Op::Linear { out_features: 0 }, input, output)
}

/// Random cases against the oracle within `limit` of the mean square; the message of a failure has the seed.
pub fn check(on: Target, draw_case: impl Fn(&mut ChaCha8Rng) -> Case, scale: f32, exact: bool) {
    for seed in 0..shapes() {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let case = draw_case(&mut rng);
        let relu = matches!(case.op, Op::Conv(_) | Op::Linear { .. }) && rng.random();
        let (images, hidden) = (rng.random_range(1..=on.images()), rng.random());
        let weights = case.weights_with(VARIANTS[0].preprocess, relu, hidden, || on.round(uniform(&mut rng)));
        let values: Vec<f32> = (0..images * case.input.len()).map(|_| on.round(scale * uniform(&mut rng))).collect();
        let found = run(on, &weights, images, Input::Tensor(&values));
        let expected = run_oracle(&weights, &values);
        let error = nmse(&found, &expected);
        let weighted = matches!(case.op, Op::Conv(_) | Op::Linear { .. });
        let limit = if exact { 0.0 } else { on.layer_nmse(hidden || !weighted) };
        let what = format!("seed {seed}, {images} images, relu {relu}, hidden {hidden}, {case:?}");
        assert!(error <= limit, "{what}: NMSE {error:e}");
        if by_winograd(on, &case) {
            check_each_tile(&what, &weights, &values, &found, &expected);
        } else if let Some(parameter) = weights.network().parameters().next() {
            check_each_sum(on, &what, &weights, parameter.fan_in() + 1, &values, &found, &expected);
        }
        if matches!(case.op, Op::Lrn(_)) {
            for (&found, expected) in found.iter().zip(expected) {
                // A dozen roundings of float32.
                let bound = 1e-6 * expected.abs() + on.rounding(expected);
                assert!((f64::from(found) - expected).abs() <= bound, "{what}: {found}, exactly {expected}");
            }
        }
    }
}

fn convolutions_of_random_shapes(on: Target) {
    check(on, random_conv, 1.0, false);
}

fn fully_connected_layers_of_random_shapes(on: Target) {
    check(on, random_linear, 1.0, false);
}

fn lrn_of_random_shapes(on: Target) {
    let draw = |rng: &mut ChaCha8Rng| {
        let scope = if rng.random() { LrnScope::Tower } else { LrnScope::All };
        let lrn = Lrn {
            size: [1, 3, 5, 7][rng.random_range(0..4)],
            alpha: 1e-4,
            beta: 0.75,
            k: [1.0, 2.0][rng.random_range(0..2)],
            scope,
        };
        let c = scope.towers() * rng.random_range(1..=20);
        let shape = Shape { h: rng.random_range(1..=9), w: rng.random_range(1..=9), c };
        case("lrn", Op::Lrn(lrn), shape, shape)
    };
    // At this scale the sum of squares outweighs k, as in the paper's first layer.
    check(on, draw, 500.0, false);
}

fn max_pools_of_random_shapes_are_exact(on: Target) {
    check(on, random_pool, 1.0, true);
}

pub fn random_pool(rng: &mut ChaCha8Rng) -> Case {
    let pool = Pool { kernel: rng.random_range(1..=4), stride: rng.random_range(1..=4) };
    let count = |size: usize| (size - pool.kernel) / pool.stride + 1;
    let mut side = || rng.random_range(pool.kernel..=pool.kernel + 12);
    let input = Shape { h: side(), w: side(), c: 7 };
    case("pool", Op::MaxPool(pool), input, Shape { h: count(input.h), w: count(input.w), c: 7 })
}

fn adaptive_average_pools_of_random_shapes(on: Target) {
    let draw = |rng: &mut ChaCha8Rng| {
        let input = Shape { h: rng.random_range(1..=31), w: rng.random_range(1..=31), c: rng.random_range(1..=9) };
        let output = rng.random_range(1..=8);
        let shape = Shape { h: output, w: output, c: input.c };
        case("avgpool", Op::AdaptiveAvgPool { output }, input, shape)
    };
    // Where sizes agree the pool is the identity and no step; the plan drops it.
    check(
        on,
        |rng| loop {
            let case = draw(rng);
            if case.input != case.output {
                break case;
            }
        },
        1.0,
        false,
    );
}

/// Sums of products of -1, 0 and 1 are exact in f32, and in f16 up to 2048, more than any of these; in bf16 they are rounded
/// once. So a wrong term cannot hide in a tolerance.
fn integer_sums_match_bit_for_bit(on: Target) {
    integer_sums(on, 0..80);
}

#[test]
#[ignore = "half a minute, run by .ci/run"]
fn more_integer_sums_match_bit_for_bit() {
    for on in [CPU, CUDA, CUDA_F16] {
        integer_sums(on, 80..500);
    }
}

fn integer_sums(on: Target, seeds: std::ops::Range<u64>) {
    for seed in seeds {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let case = if rng.random() { random_conv(&mut rng) } else { random_linear(&mut rng) };
        let (relu, hidden) = (rng.random(), rng.random());
        let images = rng.random_range(1..=on.images());
        let mut integer = || rng.random_range(-1i8..=1) as f32;
        let weights = case.weights_with(VARIANTS[0].preprocess, relu, hidden, &mut integer);
        let values: Vec<f32> = (0..images * case.input.len()).map(|_| integer()).collect();
        let found = run(on, &weights, images, Input::Tensor(&values));
        // + 0.0 turns -0 into 0 on both sides.
        let found: Vec<f32> = found.iter().map(|v| v + 0.0).collect();
        let stored = |sum: f32| if hidden { on.store(sum) } else { sum };
        let exact = !by_winograd(on, &case);
        // Sums by way of a tile's points are no integers, but nearest to the right ones.
        let found: Vec<f32> = if exact { found } else { found.iter().map(|sum| sum.round() + 0.0).collect() };
        let expected: Vec<f32> = run_oracle(&weights, &values).iter().map(|&v| stored(v as f32) + 0.0).collect();
        assert_eq!(
            bits(&found),
            bits(&expected),
            "seed {seed}, {images} images, relu {relu}, hidden {hidden}, {case:?}"
        );
    }
}

/// Whether `on` computes this convolution from the points of tiles, so that sums are others than the definition's.
fn by_winograd(on: Target, case: &Case) -> bool {
    let Op::Conv(conv) = case.op else { return false };
    let output = (case.output.h, case.output.w);
    !on.cuda && matches!(Algorithm::choose(conv, case.input, output), Algorithm::Winograd(_))
}

/// Every output within some hundred roundings of the largest sum of |a||b| of its image. Transforms multiply by up to 81 and
/// divide by as much: a sum may lose as many units as that of its neighbours' largest terms. A tap, point or tile that is left out
/// or misplaced costs a thousand times as much.
fn check_each_tile(what: &str, weights: &Weights, values: &[f32], found: &[f32], expected: &[f64]) {
    let sums = absolute_sums(weights, values);
    let image = weights.network().nodes.last().unwrap().output.len();
    let largest: Vec<f64> = sums.chunks_exact(image).map(|sums| sums.iter().copied().fold(0.0, f64::max)).collect();
    for (index, (&found, &expected)) in found.iter().zip(expected).enumerate() {
        let bound = 300.0 * f64::from(f32::EPSILON) / 2.0 * largest[index / image];
        let error = (f64::from(found) - expected).abs();
        assert!(error <= bound, "{what}: output {index} is {found}, exactly {expected}, bound {bound:e}");
    }
}

/// The oracle's outputs for the magnitudes of weights, biases and inputs.
fn absolute_sums(weights: &Weights, values: &[f32]) -> Vec<f64> {
    let magnitudes = |values: &[f32]| values.iter().map(|v| v.abs()).collect::<Vec<_>>();
    let layer = &weights.layers()[0];
    let layer = LayerWeights { weight: magnitudes(&layer.weight), bias: magnitudes(&layer.bias) };
    run_oracle(&Weights::new(weights.network().clone(), vec![layer]).unwrap(), &magnitudes(values))
}

/// Every output within gamma_n * sum |a||b| of the exact sum of n products, whatever the order they are added in, and
/// where it is stored as f16 or bf16, half a unit of that more.
fn check_each_sum(
    on: Target,
    what: &str,
    weights: &Weights,
    n: usize,
    values: &[f32],
    found: &[f32],
    expected: &[f64],
) {
    let sums = absolute_sums(weights, values);
    // Tensor cores may cut where float32 rounds, and align the addends of one instruction first.
    let unit = f64::from(f32::EPSILON) * if on.precision == Precision::Float32 { 0.5 } else { 2.0 };
    let gamma = n as f64 * unit / (1.0 - n as f64 * unit);
    let hidden = weights.network().nodes.iter().any(|node| node.layer.name == "hidden");
    for (index, ((&found, &expected), sum)) in found.iter().zip(expected).zip(sums).enumerate() {
        let rounding = if hidden { on.rounding(expected) } else { 0.0 };
        let error = (f64::from(found) - expected).abs();
        let bound = gamma * sum + rounding * (1.0 + gamma);
        assert!(error <= bound, "{what}: output {index} is {found}, exactly {expected}, bound {bound:e}");
    }
}

#[test]
#[ignore = "a dozen seconds, run by .ci/run"]
fn published_layers_match_the_oracle_on_the_cpu() {
    published_layers_match_the_oracle(CPU);
}

#[test]
#[ignore = "full width on the emulated device: half a minute, run by .ci/run"]
fn published_layers_match_the_oracle_on_cuda() {
    published_layers_match_the_oracle(CUDA);
}

#[test]
#[ignore = "full width on the emulated device: half a minute each, run by .ci/run"]
fn published_layers_match_the_oracle_on_cuda_tensor_cores() {
    for on in [CUDA_TF32, CUDA_F16, CUDA_BF16] {
        published_layers_match_the_oracle(on);
    }
}

/// Every layer of the six networks at its published width, one image.
fn published_layers_match_the_oracle(on: Target) {
    let mut rng = ChaCha8Rng::seed_from_u64(11);
    for case in published_layers() {
        let weights = case.weights_with(VARIANTS[0].preprocess, false, true, || on.round(uniform(&mut rng)));
        let values: Vec<f32> = (0..case.input.len()).map(|_| on.round(30.0 * uniform(&mut rng))).collect();
        let found = run(on, &weights, 1, Input::Tensor(&values));
        let error = nmse(&found, &run_oracle(&weights, &values));
        assert!(error <= on.layer_nmse(true), "NMSE {error:e}, {case:?}");
    }
}

fn a_nan_survives_relu_and_pools(on: Target) {
    for seed in 0..shapes() {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let case = if rng.random() { random_conv(&mut rng) } else { random_pool(&mut rng) };
        let (preprocess, relu) = (VARIANTS[0].preprocess, matches!(case.op, Op::Conv(_)));
        let weights = case.weights_with(preprocess, relu, rng.random(), || uniform(&mut rng));
        let mut values: Vec<f32> = (0..case.input.len()).map(|_| uniform(&mut rng)).collect();
        values[rng.random_range(0..case.input.len())] = f32::NAN;
        let found: Vec<_> = run(on, &weights, 1, Input::Tensor(&values)).iter().map(|v| v.is_nan()).collect();
        let expected: Vec<_> = run_oracle(&weights, &values).iter().map(|v| v.is_nan()).collect();
        if by_winograd(on, &case) {
            check_spread(&case, &found, &expected);
        } else {
            assert_eq!(found, expected, "seed {seed}, {case:?}");
        }
    }
}

/// Marks of one image, (P, Q, K): by way of a tile's points a NaN reaches all of the tile's outputs, and none beyond.
fn check_spread(case: &Case, found: &[bool], expected: &[bool]) {
    let Shape { h, w, c } = case.output;
    let near = |place: usize, size: usize| place.saturating_sub(4)..(place + 5).min(size);
    for (index, (&found, &expected_here)) in found.iter().zip(expected).enumerate() {
        let (p, q, k) = (index / (w * c), index / c % w, index % c);
        let reached = || near(p, h).any(|p| near(q, w).any(|q| expected[(p * w + q) * c + k]));
        assert!(found || !expected_here, "output {index} lacks a NaN, {case:?}");
        assert!(!found || reached(), "output {index} has a NaN of none near it, {case:?}");
    }
}

/// Nothing is a window's maximum that lies outside of it, not even where all its values are minus infinity.
fn infinities_survive_pools(on: Target) {
    for seed in 0..shapes() {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let case = random_pool(&mut rng);
        let weights = case.weights(false, || 0.0);
        let values: Vec<f32> = (0..case.input.len())
            .map(|_| match rng.random_range(0..12) {
                0 => f32::INFINITY,
                1 => on.round(uniform(&mut rng)),
                _ => f32::NEG_INFINITY,
            })
            .collect();
        let expected: Vec<f32> = run_oracle(&weights, &values).iter().map(|&v| v as f32).collect();
        assert_eq!(run(on, &weights, 1, Input::Tensor(&values)), expected, "seed {seed}, {case:?}");
    }
}

/// Sums beyond f16 become infinities of their sign, as logits they stay what they are, and 65519 still rounds down.
#[test]
fn sums_beyond_f16_become_infinities() {
    check_sums_beyond_f16(CUDA_F16);
}

pub fn check_sums_beyond_f16(on: Target) {
    let (shape, width) = (Shape { h: 1, w: 1, c: 8 }, 4);
    let case = case("linear", Op::Linear { out_features: 0 }, shape, Shape { h: 1, w: 1, c: width });
    let rows = [[8192.0; 8], [-8192.0; 8], [8188.0; 8], [8188.0; 8]];
    for (hidden, expected) in [
        (true, [f32::INFINITY, -f32::INFINITY, 65504.0, f32::INFINITY]),
        (false, [65536.0, -65536.0, 65519.0, 65520.0]),
    ] {
        let mut values = rows.into_iter().flatten().map(|v| v / 64.0).chain([0.0, 0.0, 15.0, 16.0]);
        let weights = case.weights_with(VARIANTS[0].preprocess, false, hidden, || values.next().unwrap());
        assert_eq!(run(on, &weights, 1, Input::Tensor(&[64.0; 8])), expected, "hidden {hidden}");
    }
}

fn preprocessing_is_exact_for_every_variant(on: Target) {
    let mut rng = ChaCha8Rng::seed_from_u64(3);
    let (size, images) = (37, 5);
    for variant in &VARIANTS {
        let preprocess = variant.preprocess;
        let shape = Shape { h: size, w: size, c: 3 };
        let mut case = case("pool", Op::MaxPool(Pool { kernel: 1, stride: 1 }), shape, shape);
        case.variant = variant.name;
        let weights = case.weights_with(preprocess, false, false, || 0.0);
        let pixels: Vec<u8> = (0..images * shape.len()).map(|_| rng.random()).collect();
        let found = to_nchw(shape, &run(on, &weights, images, Input::Pixels(&pixels)));
        let exact = naive::input(&preprocess, size, &pixels);
        let expected: Vec<f32> = exact.into_iter().map(|v| on.store(v)).collect();
        assert_eq!(bits(&found), bits(&expected), "{}", variant.name);

        // And against the specification itself, with its numbers written out.
        let rgb = [pixels[0], pixels[1], pixels[2]].map(f32::from);
        let by_hand = match variant.name {
            "torchvision" | "half" | "single-tower" => {
                [(rgb[0] / 255.0 - 0.485) / 0.229, (rgb[1] / 255.0 - 0.456) / 0.224, (rgb[2] / 255.0 - 0.406) / 0.225]
            }
            "paper" => [rgb[0] - 123.68, rgb[1] - 116.779, rgb[2] - 103.939],
            _ => [rgb[2] - 104.006_99, rgb[1] - 116.668_77, rgb[0] - 122.678_92],
        };
        let by_hand = by_hand.map(|v| on.store(v));
        assert_eq!([0, 1, 2].map(|c| found[c * size * size]), by_hand, "{}", variant.name);
    }
}

/// The first layer of every variant, for which tensor cores have a layout of their own, from pixels and from their values.
fn first_layers_take_pixels_and_tensors(on: Target) {
    let mut rng = ChaCha8Rng::seed_from_u64(5);
    for (index, variant) in VARIANTS.iter().enumerate() {
        // Sizes with and without pixels that no window reaches, and every padding below the stride.
        let (size, padding) = (33 + index, index % 4);
        let conv = Conv { groups: 1, out_channels: 0, kernel: 11, stride: 4, padding };
        let count = (size + 2 * padding - 11) / 4 + 1;
        let (input, output) = (Shape { h: size, w: size, c: 3 }, Shape { h: count, w: count, c: 5 });
        let case = case("conv", Op::Conv(conv), input, output);
        let weights = case.weights_with(variant.preprocess, true, true, || on.round(uniform(&mut rng)));
        let pixels: Vec<u8> = (0..2 * input.len()).map(|_| rng.random()).collect();
        let values = to_nhwc(input, &naive::input(&variant.preprocess, size, &pixels));
        let rounded: Vec<f32> = values.iter().map(|&v| on.round(v)).collect();
        let expected = run_oracle(&weights, &rounded);
        let what = format!("{}, {case:?}", variant.name);
        let found = run(on, &weights, 2, Input::Pixels(&pixels));
        let error = nmse(&found, &expected);
        assert!(error <= on.layer_nmse(true), "{what}: NMSE {error:e}");
        assert_eq!(bits(&found), bits(&run(on, &weights, 2, Input::Tensor(&values))), "{what}");
    }
}

/// All layers of all six networks in narrow widths, on the pixels of two pictures: each layer against the oracle on the
/// input that the device gave it, and the logits against the oracle's own.
fn narrow_networks_match_the_oracle_layer_by_layer(on: Target) {
    let mut rng = ChaCha8Rng::seed_from_u64(21);
    // Groups of 8 channels and of others: on tensor cores they take different kernels.
    for (variant, widths) in
        VARIANTS.iter().flat_map(|v| [(v, [6, 10, 14, 12, 8, 33, 31, 7]), (v, [16, 32, 24, 32, 16, 40, 64, 9])])
    {
        let network = Network::with_widths(variant, &widths, variant.input_size).unwrap();
        let parameters: Vec<_> = network.parameters().collect();
        let mut layer = |p: &Parameter| {
            let bound = (6.0 / p.fan_in() as f32).sqrt();
            let mut values = |count: usize| (0..count).map(|_| on.round(bound * uniform(&mut rng))).collect();
            LayerWeights { weight: values(p.weight_shape[0] * p.fan_in()), bias: values(p.weight_shape[0]) }
        };
        let layers = parameters.iter().map(&mut layer).collect();
        let weights = Weights::new(network.clone(), layers).unwrap();
        let pixels: Vec<u8> = (0..2).flat_map(|i| seeded::picture(4, i, variant.input_size)).collect();

        // A step answers to each of its layers; its value is that after the last of them.
        let plan = Plan::new(&network, 2, &[]).unwrap();
        let names: Vec<_> = plan.steps.iter().map(|s| *s.layers.last().unwrap()).collect();
        let mut session =
            device::backend(on, weights.clone()).session(Plan::new(&network, 2, &names).unwrap()).unwrap();
        session.run(Input::Pixels(&pixels)).unwrap();

        let input = naive::input(&variant.preprocess, variant.input_size, &pixels);
        let mut values: Vec<f64> = input.iter().map(|&v| f64::from(on.store(v))).collect();
        let (mut nodes, mut layers) = (network.nodes.iter(), weights.layers().iter());
        for step in &plan.steps {
            for node in nodes.by_ref().take(step.layers.iter().filter(|name| **name != "input").count()) {
                if matches!(node.layer.op, Op::Conv(_) | Op::Linear { .. }) {
                    values.iter_mut().for_each(|v| *v = f64::from(on.round(*v as f32)));
                }
                values = naive::apply(node, || layers.next().unwrap(), &values);
            }
            let name = *step.layers.last().unwrap();
            let found = session.activation(name).unwrap().values;
            let error = nmse(&found, &to_nhwc(step.output, &values));
            assert!(error <= on.layer_nmse(!step.logits), "{} {name}: NMSE {error:e}", variant.name);
            values = to_nchw(step.output, &found).into_iter().map(f64::from).collect();
        }
        let input: Vec<f64> = input.into_iter().map(f64::from).collect();
        let expected = naive::forward(&weights, &input).pop().unwrap().values;
        let error = nmse(session.logits().unwrap(), &expected).sqrt();
        assert!(error <= on.network_error(), "{}: logits {error:e} of their rms off", variant.name);
    }
}
