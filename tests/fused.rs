//! Fused kernels against the separate ones that they stand for: bit for bit, on guarded memory, at random shapes.

use alexnet::backend::{Backend, Input};
use alexnet::cuda::kernels::{ConvConfig, Kernel};
use alexnet::cuda::select::{self, Launch};
use alexnet::cuda::{CudaBackend, Element, Launcher, Rules, Settings, encode_filter, fuse};
use alexnet::net::{Conv, Lrn, LrnScope, Network, Parameter, Pool, Shape, VARIANTS};
use alexnet::plan::{Plan, Step, StepKind};
use alexnet::weights::{LayerWeights, Weights, seeded};
use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::cases::uniform;
use crate::device::{self, Target};
use crate::guards::{Guarded, Operands};
use crate::kernels::shapes;
use crate::on_every_precision;

const POOL: Pool = Pool { kernel: 3, stride: 2 };

on_every_precision! {
    lrn_and_pools
    convolutions_and_pools
    networks
}

/// A step that is not its plan's last.
fn step(kind: StepKind, input: Shape, output: Shape) -> Step {
    let layers = vec!["layer"];
    Step { layers, kind, input, output, source: Some(0), target: 1, kept: false, logits: false, half: None }
}

/// The output of the max pool.
fn pooled(Shape { h, w, c }: Shape) -> Shape {
    let count = |size: usize| (size - POOL.kernel) / POOL.stride + 1;
    Shape { h: count(h), w: count(w), c }
}

/// Values of which, with `specials`, a few are not finite.
fn values(on: Target, rng: &mut impl Rng, count: usize, scale: f32, specials: bool) -> Vec<f32> {
    let mut value = || match rng.random_range(0..300) {
        0 if specials => f32::NAN,
        1 if specials => f32::INFINITY,
        2 if specials => f32::NEG_INFINITY,
        _ => on.round(scale * uniform(rng)),
    };
    (0..count).map(|_| value()).collect()
}

/// LRN and the pool, in both orders: values at which the sum of squares outweighs k, and a few that are not finite.
fn lrn_and_pools(on: Target) {
    let launcher = Launcher::new(device::cuda(), on.precision).unwrap();
    let vector = 16 / on.element().bytes();
    for seed in 0..shapes() {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let scope = if rng.random() { LrnScope::Tower } else { LrnScope::All };
        let lrn = Lrn { size: 5, alpha: 1e-4, beta: 0.75, k: [1.0, 2.0][rng.random_range(0..2)], scope };
        let lrn = StepKind::Lrn(lrn);
        let c = scope.towers() * vector * rng.random_range(1..=6);
        let input = Shape { h: rng.random_range(3..=20), w: rng.random_range(3..=20), c };
        let images = rng.random_range(1..=on.images());
        let values = values(on, &mut rng, images * input.len(), 500.0, seed % 2 == 1);
        let between = [input, pooled(input)];
        for (first, second, between) in
            [(lrn, StepKind::MaxPool(POOL), between[0]), (StepKind::MaxPool(POOL), lrn, between[1])]
        {
            let first = step(first, input, between);
            let second = step(second, between, pooled(input));
            let source = Guarded::new(&launcher, "input", on.element(), &values);
            let operands = Operands { source, ..Operands::none(&launcher) };
            let what = format!("seed {seed}, {images} images, {first:?}, {second:?}");
            agree(&launcher, on, &what, images, &operands, [&first, &second]);
            // The kernel that takes vectors, and the one that takes elements.
            if first.kind == lrn {
                let scalar = match on.element() {
                    Element::F32 => Kernel::LrnF32,
                    Element::F16 => Kernel::LrnF16,
                    Element::Bf16 => Kernel::LrnBf16,
                };
                let vectors = select::select(&first, images, &on.rules());
                assert_ne!(scalar, vectors.kernel);
                let scalar = Launch { kernel: scalar, ..vectors };
                let [scalar, vectors] =
                    [scalar, vectors].map(|l| operands.run(&launcher, on, &first, images, &l, &what));
                assert_eq!(bits(&scalar), bits(&vectors), "{what}");
            }
            operands.checked(&what, &values);
        }
    }
}

/// Convolutions of images that fit a tile. For float32 there is no such kernel.
fn convolutions_and_pools(on: Target) {
    let rules = on.rules();
    let Some(config) = ConvConfig::pooled(on.precision) else { return };
    let launcher = Launcher::new(device::cuda(), on.precision).unwrap();
    for seed in 0..shapes() {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let (groups, chunk) = (rng.random_range(1..=3), config.channels);
        let (kernel, stride, padding) = (rng.random_range(1..=5), rng.random_range(1..=2), rng.random_range(0..=2));
        let conv = Conv { groups, out_channels: 0, kernel, stride, padding };
        // Up to the largest image that fits, now and then just that, and the published one.
        let (h, w) = match rng.random_range(0..8) {
            0 => (13, 13),
            1 => (config.block_m / 12, 12),
            _ => (rng.random_range(3..=13), rng.random_range(3..=13)),
        };
        let side = |outputs: usize| ((outputs - 1) * stride + kernel).saturating_sub(2 * padding).max(1);
        let input = Shape { h: side(h), w: side(w), c: groups * chunk * rng.random_range(1..=3) };
        // Where padding alone holds a window there are more outputs.
        let count = |size: usize| (size + 2 * padding - kernel) / stride + 1;
        let filters = 16 / on.element().bytes() * if rng.random_ratio(1, 4) { 17 } else { rng.random_range(1..=5) };
        let output = Shape { h: count(input.h), w: count(input.w), c: groups * filters };
        if output.h * output.w > config.block_m {
            continue;
        }
        let first = step(StepKind::Conv { conv, weights: 0, relu: rng.random(), unpooled: None }, input, output);
        let second = step(StepKind::MaxPool(POOL), output, pooled(output));
        let images = rng.random_range(1..=on.images());
        let source = values(on, &mut rng, images * input.len(), 1.0, seed % 2 == 1);
        let gemm_k = kernel * kernel * input.c / groups;
        let filter = values(on, &mut rng, output.c * gemm_k, 1.0, false);
        let filter = encode_filter(on.precision, "layer", &filter, gemm_k).unwrap();
        let operands = Operands {
            source: Guarded::new(&launcher, "input", on.element(), &source),
            filter: Guarded::with_bytes(&launcher, "filter", on.element(), &filter),
            bias: Guarded::new(&launcher, "bias", Element::F32, &values(on, &mut rng, output.c, 1.0, false)),
        };
        let what = format!("seed {seed}, {images} images, {first:?}");
        agree(&launcher, on, &what, images, &operands, [&first, &second]);
        operands.checked(&what, &source);
        // Not for a pixel more than a tile has rows, nor where a group ends within a vector.
        let wide = Shape { h: config.block_m / output.w + 1, ..output };
        let odd = Shape { c: output.c + groups, ..output };
        for shape in [wide, odd] {
            let first = Step { output: shape, ..first.clone() };
            let second = step(StepKind::MaxPool(POOL), shape, pooled(shape));
            assert_eq!(fuse::pair(&first, &second, &rules), None, "{what}");
        }
    }
}

/// The two steps one after the other give the bits that they give as one, whatever its grid.
fn agree(launcher: &Launcher, on: Target, what: &str, images: usize, operands: &Operands, steps: [&Step; 2]) {
    // Without splits, which add up in another order.
    let rules = Rules { deterministic: true, ..on.rules() };
    let run = |step: &Step, operands: &Operands| {
        operands.run(launcher, on, step, images, &select::select(step, images, &rules), what)
    };
    let between = run(steps[0], operands);
    let after =
        Operands { source: Guarded::new(launcher, "input", on.element(), &between), ..Operands::none(launcher) };
    let expected = run(steps[1], &after);
    let both = fuse::pair(steps[0], steps[1], &rules).unwrap_or_else(|| panic!("{what}: no kernel does both"));
    let launch = select::select(&both, images, &rules);
    let mut launches = vec![launch];
    if !matches!(both.kind, StepKind::Conv { .. }) {
        launches.extend([1, 3].map(|blocks| Launch { grid: [blocks, 1, 1], ..launch }));
    }
    for launch in launches {
        let found = operands.run(launcher, on, &both, images, &launch, what);
        assert_eq!(bits(&found), bits(&expected), "{what}, {launch:?}");
    }
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|v| v.to_bits()).collect()
}

/// Networks whose steps are fused give the logits of those whose every step is kept, bit for bit.
fn networks(on: Target) {
    let mut rng = ChaCha8Rng::seed_from_u64(8);
    for variant in &VARIANTS {
        let network = Network::with_widths(variant, &[32, 32, 24, 32, 32, 40, 64, 9], variant.input_size).unwrap();
        let mut layer = |p: &Parameter| {
            let bound = (6.0 / p.fan_in() as f32).sqrt();
            let mut values = |count: usize| (0..count).map(|_| bound * uniform(&mut rng)).collect();
            LayerWeights { weight: values(p.weight_shape[0] * p.fan_in()), bias: values(p.weight_shape[0]) }
        };
        let layers = network.parameters().map(|p| layer(&p)).collect();
        let weights = Weights::new(network.clone(), layers).unwrap();
        let settings = Settings { precision: on.precision, deterministic: true, ..Settings::default() };
        let backend = CudaBackend::new(weights, device::cuda(), settings).unwrap();
        let plan = Plan::new(&network, 2, &[]).unwrap();
        let names: Vec<_> = plan.steps.iter().map(|s| s.layers[0]).filter(|name| *name != "input").collect();
        let pixels: Vec<u8> = (0..2).flat_map(|i| seeded::picture(5, i, variant.input_size)).collect();
        let logits = |keep: &[&str]| {
            let mut session = backend.session(Plan::new(&network, 2, keep).unwrap()).unwrap();
            session.run(Input::Pixels(&pixels)).unwrap();
            (session.plan().steps.len(), session.logits().unwrap().to_vec())
        };
        let ((fused_steps, fused), (steps, separate)) = (logits(&[]), logits(&names));
        assert_eq!(steps, plan.steps.len());
        let norms = plan.steps.iter().filter(|s| matches!(s.kind, StepKind::Lrn(_))).count();
        assert!(fused_steps <= steps - norms, "{}: {fused_steps} of {steps} steps", variant.name);
        assert_eq!(bits(&fused), bits(&separate), "{}", variant.name);
    }
}
