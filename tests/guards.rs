//! CUDA kernels on guarded memory: 4 KiB of canaries around every operand stay as they were, and every element of an output
//! that begins as NaN is written. The emulated device finds such faults by itself; a real one needs this.

use std::sync::Arc;

use alexnet::cuda::args::TopKArgs;
use alexnet::cuda::select::{self, Candidate, Launch, Problem};
use alexnet::cuda::{Addresses, Element, Launcher, encode_filter};
use alexnet::net::{Lrn, LrnScope, Op, Shape, VARIANTS};
use alexnet::plan::{Plan, SpaceToDepth, Step, StepKind};
use alexnet::split::Half;
use cudarc::driver::{CudaSlice, CudaStream, DevicePtr};
use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::cases::{Case, uniform};
use crate::device::{self, CUDA, CUDA_BF16, CUDA_F16, CUDA_TF32, Target};
use crate::kernels::{case, random_conv, random_linear, random_pool};

/// Bytes of canaries on each side.
const GUARD: usize = 4096;
const CANARY: u8 = 0xA5;

/// Elements between canaries on the device.
pub struct Guarded {
    name: &'static str,
    element: Element,
    slice: CudaSlice<u8>,
    stream: Arc<CudaStream>,
}

impl Guarded {
    pub fn new(launcher: &Launcher, name: &'static str, element: Element, values: &[f32]) -> Self {
        Self::with_bytes(launcher, name, element, &element.encode(values))
    }

    pub fn with_bytes(launcher: &Launcher, name: &'static str, element: Element, bytes: &[u8]) -> Self {
        // SAFETY: everything here runs on this one stream.
        let stream = Arc::clone(unsafe { launcher.stream() });
        let guard = [CANARY; GUARD];
        let slice = stream.clone_htod(&[&guard[..], bytes, &guard[..]].concat()).unwrap();
        Guarded { name, element, slice, stream }
    }

    fn address(&self) -> u64 {
        self.slice.device_ptr(&self.stream).0 + GUARD as u64
    }

    /// The elements, after the canaries were found whole.
    pub fn checked(&self, what: &str) -> Vec<f32> {
        let all = self.stream.clone_dtoh(&self.slice).unwrap();
        let (before, rest) = all.split_at(GUARD);
        let (bytes, after) = rest.split_at(rest.len() - GUARD);
        for (side, guard) in [("before", before), ("after", after)] {
            let broken = guard.iter().position(|byte| *byte != CANARY);
            assert_eq!(broken, None, "{what}: something wrote {side} the {}", self.name);
        }
        let mut values = vec![];
        self.element.decode(bytes, &mut values);
        values
    }
}

/// What a step reads.
pub struct Operands {
    pub source: Guarded,
    pub filter: Guarded,
    pub bias: Guarded,
}

impl Operands {
    /// Operands of no elements.
    pub fn none(launcher: &Launcher) -> Self {
        let empty = |name| Guarded::new(launcher, name, Element::F32, &[]);
        Operands { source: empty("input"), filter: empty("filter"), bias: empty("bias") }
    }

    /// Runs `step` as `launch` says, by itself and into its place beside as many channels of another tower; its output, which
    /// began as NaN.
    pub fn run(
        &self,
        launcher: &Launcher,
        on: Target,
        step: &Step,
        images: usize,
        launch: &Launch,
        what: &str,
    ) -> Vec<f32> {
        let what = format!("{what}, {launch:?}");
        let output = self.run_into(launcher, on, step, images, launch, &what);
        // To an LRN the second half is that of its input too.
        let tower =
            usize::from(!matches!(step.kind, StepKind::Lrn(_) | StepKind::LrnMaxPool(_) | StepKind::MaxPoolLrn(_)));
        let half = Half { tower, joined: true, gives: 0..0, whole: step.clone() };
        let beside = Step { half: Some(Box::new(half)), ..step.clone() };
        let c = step.output.c;
        if !matches!(step.kind, StepKind::Dropout { .. }) {
            let both = self.run_into(launcher, on, &beside, images, launch, &what);
            for (place, (pixel, alone)) in both.chunks_exact(2 * c).zip(output.chunks_exact(c)).enumerate() {
                let (own, other) = (&pixel[tower * c..][..c], &pixel[(1 - tower) * c..][..c]);
                let same = own.iter().zip(alone).all(|(own, alone)| own.to_bits() == alone.to_bits());
                assert!(same, "{what}: pixel {place} differs beside another tower's");
                assert!(other.iter().all(|v| v.is_nan()), "{what}: pixel {place} of the other tower was written to");
            }
        }
        output
    }

    /// The buffer that the output of `step` lies in, which began as NaN.
    fn run_into(
        &self,
        launcher: &Launcher,
        on: Target,
        step: &Step,
        images: usize,
        launch: &Launch,
        what: &str,
    ) -> Vec<f32> {
        let unwritten = |elements: usize| vec![f32::NAN; elements];
        let elements = images * step.room();
        let target = Guarded::new(launcher, "output", on.element().of_output(step), &unwritten(elements));
        let partial = unwritten(select::partial_elements(launch, step, images).max(1));
        let partial = Guarded::new(launcher, "partial sums", Element::F32, &partial);
        let addresses = Addresses {
            source: self.source.address(),
            target: target.address() + (step.first() * on.element().of_output(step).bytes()) as u64,
            filter: self.filter.address(),
            bias: self.bias.address(),
            partial: partial.address(),
            workspace: 0, // cuBLASLt's
        };
        // SAFETY: the operands hold what the step's shapes say, which their makers see to, and live until the results are
        // downloaded; the step is a plan's own, or fused from two of them.
        unsafe { launcher.launch_step(launch, step, images, &on.rules(), 7, &addresses).unwrap() };
        let output = target.checked(what);
        let partial = partial.checked(what);
        assert!(launch.splits == 1 || partial.iter().all(|v| v.is_finite()), "{what}: a partial sum was not written");
        output
    }

    /// After every run: nothing was written to, `input` being what the source began with.
    pub fn checked(&self, what: &str, input: &[f32]) {
        let same = self.source.checked(what).iter().zip(input).all(|(a, b)| a.to_bits() == b.to_bits());
        assert!(same, "{what}: the input was written to");
        self.filter.checked(what);
        self.bias.checked(what);
    }
}

/// Runs the one step of `case` on guarded memory.
fn check(launcher: &Launcher, on: Target, seed: u64, case: &Case, rng: &mut impl Rng) {
    let images = rng.random_range(1..=5);
    let relu = matches!(case.op, Op::Conv(_) | Op::Linear { .. }) && rng.random();
    let weights = case.weights_with(VARIANTS[0].preprocess, relu, rng.random(), || uniform(rng));
    let plan = Plan::train(weights.network(), images, &[]).unwrap();
    let step = &plan.steps[1];
    let element = on.element();
    let mut values = |count: usize| -> Vec<f32> { (0..count).map(|_| on.round(uniform(rng))).collect() };
    let (filter, bias) = match weights.layers().first() {
        Some(layer) => {
            let rows = values(layer.weight.len());
            let gemm_k = layer.weight.len() / layer.bias.len();
            (encode_filter(on.precision, "layer", &rows, gemm_k).unwrap().into_owned(), values(layer.bias.len()))
        }
        None => (vec![], vec![]),
    };
    let input = values(images * step.input.len());
    let operands = Operands {
        source: Guarded::new(launcher, "input", element, &input),
        filter: Guarded::with_bytes(launcher, "filter", element, &filter),
        bias: Guarded::new(launcher, "bias", Element::F32, &bias),
    };
    let what = format!("seed {seed}, {images} images, {step:?}");
    let rules = on.rules();
    let run = |launch: &Launch| {
        let output = operands.run(launcher, on, step, images, launch, &what);
        assert!(output.iter().all(|v| v.is_finite()), "{what}, {launch:?}: an output was not written");
        output
    };
    let launch = select::select(step, images, &rules);
    let output = run(&launch);
    match Problem::of(step, images) {
        // Every tile shape gives the same bits, and every number of splits nearly the same sums.
        Some(problem) => {
            let candidates = problem.candidates(&rules);
            let whole = |candidate: &&Candidate| candidate.splits == 1;
            let expected = run(&select::launch_of(&problem, candidates.iter().find(whole).unwrap()));
            close(on, &what, &output, &expected, problem.gemm_k);
            for candidate in &candidates {
                let found = run(&select::launch_of(&problem, candidate));
                match candidate.splits {
                    1 => assert!(found == expected, "{what}: {candidate:?} gives other bits"),
                    _ => close(on, &format!("{what}, {candidate:?}"), &found, &expected, problem.gemm_k),
                }
            }
        }
        // Grids that are far too small: threads stride over the rest, as they do over batches larger than a test's.
        None => {
            for blocks in [1, 3] {
                let strided = run(&Launch { grid: [blocks, 1, 1], ..launch });
                assert!(strided == output, "{what}: {blocks} blocks give another output");
            }
        }
    }
    operands.checked(&what, &input);
}

/// Sums of `n` products of values below 1 in another order: no further apart than float32's rounding and the output's own.
fn close(on: Target, what: &str, found: &[f32], expected: &[f32], n: usize) {
    // What neighbours of an output's type differ by, at 1.
    let unit = match on.element() {
        Element::F32 => 2f64.powi(-23),
        Element::F16 => 2f64.powi(-10),
        Element::Bf16 => 2f64.powi(-7),
    };
    for (index, (&found, &expected)) in found.iter().zip(expected).enumerate() {
        let bound = 2.0 * f64::from(f32::EPSILON) * (n + 1) as f64 + unit * f64::from(expected.abs()) + 1e-7;
        let error = f64::from((found - expected).abs());
        assert!(error <= bound, "{what}: output {index} is {found}, in one piece {expected}");
    }
}

macro_rules! operands_are_read_and_written_within_bounds {
    ($($(#[$attribute:meta])? $test:ident: $target:ident;)+) => {$(
        #[test]
        $(#[$attribute])?
        fn $test() {
            check_operands($target);
        }
    )+};
}

operands_are_read_and_written_within_bounds! {
    operands_f32: CUDA;
    #[ignore = "ten seconds, run by .ci/run"]
    operands_tf32: CUDA_TF32;
    operands_f16: CUDA_F16;
    #[ignore = "ten seconds, run by .ci/run"]
    operands_bf16: CUDA_BF16;
}

fn check_operands(on: Target) {
    let launcher = Launcher::new(device::cuda(), on.precision).unwrap();
    // Tensor cores have a dozen ways to compute a case, each of which is run.
    let seeds = if on == CUDA { 60 } else { 12 };
    for seed in 0..seeds {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let shape = Shape { h: rng.random_range(1..=9), w: rng.random_range(1..=9), c: 2 * rng.random_range(1..=20) };
        let lrn = Lrn { size: 5, alpha: 1e-4, beta: 0.75, k: 2.0, scope: LrnScope::Tower };
        let pooled = Shape { h: 6, w: 6, c: shape.c };
        let cases = [
            random_conv(&mut rng),
            random_linear(&mut rng),
            random_pool(&mut rng),
            case("lrn", Op::Lrn(lrn), shape, shape),
            case("dropout", Op::Dropout { p: 0.5 }, shape, shape),
            case("avgpool", Op::AdaptiveAvgPool { output: 6 }, shape, pooled),
        ];
        for case in
            cases.iter().filter(|case| !matches!(case.op, Op::AdaptiveAvgPool { .. }) || case.input != case.output)
        {
            check(&launcher, on, seed, case, &mut rng);
        }
    }
}

#[test]
fn pixels_are_read_within_bounds() {
    for on in [CUDA, CUDA_F16, CUDA_BF16] {
        check_pixels(on);
    }
}

fn check_pixels(on: Target) {
    let launcher = Launcher::new(device::cuda(), on.precision).unwrap();
    let preprocess = VARIANTS[4].preprocess;
    for seed in 0..40 {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        // Now and then wider than what a block of any kernel takes at once.
        let widest = if rng.random_ratio(1, 4) { 600 } else { 20 };
        let shape = Shape { h: rng.random_range(1..=20), w: rng.random_range(1..=widest), c: 3 };
        let images = rng.random_range(1..=3);
        let depth = rng.random::<bool>().then(|| SpaceToDepth { block: 4, padding: rng.random_range(0..=5) });
        // As it is, or blocks: some are all padding, and some pixels are in none.
        let output = depth.map_or(shape, |SpaceToDepth { block, padding }| {
            let mut blocks = |pixels: usize| (pixels + padding + rng.random_range(0..=8)).div_ceil(block).max(2) - 1;
            Shape { h: blocks(shape.h), w: blocks(shape.w), c: 3 * block * block }
        });
        let step = Step {
            layers: vec!["input"],
            kind: StepKind::Preprocess { preprocess, depth },
            input: shape,
            output,
            source: None,
            target: 0,
            kept: false,
            logits: false,
            half: None,
        };
        let pixels: Vec<u8> = (0..images * shape.len()).map(|_| rng.random()).collect();
        // SAFETY: everything here runs on this one stream.
        let stream = unsafe { launcher.stream() };
        // Exactly as long as the pixels: a read past their end is found by the device or its tools.
        let source = stream.clone_htod(&pixels).unwrap();
        let target = Guarded::new(&launcher, "output", on.element(), &vec![f32::NAN; images * output.len()]);
        let addresses =
            Addresses { source: source.device_ptr(stream).0, target: target.address(), ..Addresses::default() };
        let launch = Launch { grid: [rng.random_range(1..=3), 1, 1], ..select::select(&step, images, &on.rules()) };
        // SAFETY: source and target hold the images' pixels and outputs and live until the output is downloaded.
        unsafe { launcher.launch_step(&launch, &step, images, &on.rules(), 0, &addresses).unwrap() };
        let what = format!("seed {seed}, {images} images, {step:?}, {launch:?}");
        let SpaceToDepth { block, padding } = depth.unwrap_or(SpaceToDepth { block: 1, padding: 0 });
        for (index, value) in target.checked(&what).iter().enumerate() {
            let (place, element) = (index / output.c, index % output.c);
            let (row, column) = (element / 3 / block, element / 3 % block);
            let h = (place / output.w % output.h * block + row).wrapping_sub(padding);
            let w = (place % output.w * block + column).wrapping_sub(padding);
            let channel = element % 3;
            let expected = if h < shape.h && w < shape.w {
                let pixel = ((index / output.len() * shape.h + h) * shape.w + w) * 3;
                on.store(preprocess.apply(pixels[pixel + preprocess.source(channel)], channel))
            } else {
                0.0
            };
            assert_eq!(value.to_bits(), expected.to_bits(), "{what}, element {index}");
        }
    }
}

#[test]
fn best_classes_are_written_within_bounds() {
    let launcher = Launcher::new(device::cuda(), CUDA.precision).unwrap();
    for seed in 0..40 {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let (n, classes) = (rng.random_range(1..=5), rng.random_range(1..=700usize));
        let k = rng.random_range(1..=classes.min(12));
        let probabilities = rng.random();
        // Many ties, and now and then a NaN or an infinity.
        let logit = |rng: &mut ChaCha8Rng| match rng.random_range(0..200) {
            0 => f32::NAN,
            1 => f32::NEG_INFINITY,
            _ => rng.random_range(-8i8..=8) as f32,
        };
        let values: Vec<f32> = (0..n * classes).map(|_| logit(&mut rng)).collect();
        let logits = Guarded::new(&launcher, "logits", Element::F32, &values);
        let indices = Guarded::new(&launcher, "indices", Element::F32, &vec![f32::NAN; n * k]);
        let scores = Guarded::new(&launcher, "scores", Element::F32, &vec![f32::NAN; n * k]);
        let finite = Guarded::new(&launcher, "flags", Element::F32, &vec![f32::NAN; n]);
        let args = TopKArgs {
            logits: logits.address(),
            indices: indices.address(),
            scores: scores.address(),
            finite: finite.address(),
            n: n as i32,
            classes: classes as i32,
            k: k as i32,
            probabilities: i32::from(probabilities),
        };
        // SAFETY: the operands have n * classes, n * k, n * k and n elements of 4 bytes and live until they are downloaded.
        unsafe { launcher.launch(&select::top_k(n), args).unwrap() };
        let what = format!("seed {seed}, {n} x {classes}, k {k}, probabilities {probabilities}");
        let found: Vec<usize> = indices.checked(&what).iter().map(|v| v.to_bits() as usize).collect();
        let scores = scores.checked(&what);
        let finite = finite.checked(&what);
        for image in 0..n {
            let logits = &values[image * classes..][..classes];
            let expected = u32::from(logits.iter().all(|logit| logit.is_finite()));
            assert_eq!(finite[image].to_bits(), expected, "{what}, image {image}");
            let key = |i: usize| if logits[i].is_nan() { f32::NEG_INFINITY } else { logits[i] };
            let mut order: Vec<usize> = (0..classes).collect();
            order.sort_by(|&a, &b| key(b).total_cmp(&key(a)).then(a.cmp(&b)));
            assert_eq!(found[image * k..][..k], order[..k], "{what}, image {image}");
            let maximum = f64::from(key(order[0]));
            let sum: f64 = logits.iter().map(|&l| (f64::from(l) - maximum).exp()).sum();
            for (rank, score) in scores[image * k..][..k].iter().enumerate() {
                let logit = f64::from(logits[order[rank]]);
                let expected = if probabilities { (logit - maximum).exp() / sum } else { logit };
                let close = (f64::from(*score) - expected).abs() <= 1e-6 * expected.abs().max(1e-30);
                assert!(
                    close || (score.is_nan() && expected.is_nan()) || f64::from(*score) == expected,
                    "{what}: {score} {expected}"
                );
            }
        }
    }
}
