//! The library's entry point: sessions, batches, activations, input sizes, and what it refuses.

use alexnet::backend::{Input, Score};
use alexnet::cpu::naive;
use alexnet::plan::{Plan, StepKind};
use alexnet::split::Half;
use alexnet::weights::seeded;
use alexnet::{Device, Error, Model, Options, Precision};

use crate::device::{CPU, CUDA, CUDA_F16, Target, options};
use crate::{on_every_device, testdata};

on_every_device! {
    models_are_shared_between_threads
    a_tensor_and_its_pixels_agree
    activations_come_in_the_order_asked_for
    sessions_refuse_what_they_cannot_run
    predictions_are_probabilities_best_first
    files_fail_one_by_one
}

fn demo(options: Options) -> Model {
    Model::demo(&options).unwrap()
}

fn pixels(images: usize, size: usize) -> Vec<u8> {
    (0..images).flat_map(|index| seeded::picture(5, index, size)).collect()
}

/// Largest difference over the rms of `expected`.
fn difference(found: &[f32], expected: &[f32]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let rms = (expected.iter().map(|&e| f64::from(e).powi(2)).sum::<f64>() / expected.len() as f64).sqrt();
    found.iter().zip(expected).map(|(&f, &e)| f64::from((f - e).abs())).fold(0.0, f64::max) / rms
}

fn models_are_shared_between_threads(on: Target) {
    fn assert_send_sync<T: Send + Sync>() {}
    assert_send_sync::<Model>();
    let model = demo(options(on));
    let pixels = pixels(2, 224);
    let expected = model.logits(Input::Pixels(&pixels)).unwrap();
    std::thread::scope(|scope| {
        let run = || model.logits(Input::Pixels(&pixels)).unwrap();
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(run)).collect();
        for thread in threads {
            assert_eq!(thread.join().unwrap(), expected);
        }
    });
}

/// Batches below, at and above the session's, and ragged ones, give what one image at a time gives.
#[test]
fn any_batch_size_gives_the_same_logits() {
    for checkpoint in ["samples/shapes.safetensors", "samples/shapes-paper.safetensors"] {
        let model = Model::load(testdata::path(checkpoint).to_str().unwrap(), &options(CPU)).unwrap();
        let size = model.network().input_size;
        let pixels = pixels(67, size);
        let image = size * size * 3;
        let one_by_one: Vec<f32> =
            pixels.chunks(image).flat_map(|image| model.logits(Input::Pixels(image)).unwrap()).collect();
        for images in [1, 2, 3, 5, 31, 32, 33, 67] {
            let logits = model.logits(Input::Pixels(&pixels[..images * image])).unwrap();
            let error = difference(&logits, &one_by_one[..images * 10]);
            assert!(error < 1e-5, "{checkpoint}, {images} images: {error:e}");
        }
        // More images than fully connected layers take dot products for: the same bits.
        let logits = |images: usize| model.logits(Input::Pixels(&pixels[..images * image])).unwrap();
        let many = logits(32);
        for images in [5, 8, 31] {
            assert_eq!(logits(images), many[..images * 10], "{checkpoint}, {images} images");
        }
    }
}

/// The same bits, however pixels and filters are divided.
#[test]
fn thread_counts_give_the_same_logits() {
    let pixels = pixels(9, 224);
    let logits = |threads: usize| {
        let options = Options { threads: std::num::NonZeroUsize::new(threads), ..options(CPU) };
        demo(options).logits(Input::Pixels(&pixels)).unwrap()
    };
    let expected = logits(1);
    for threads in [2, 3, 8, 16] {
        assert_eq!(logits(threads), expected, "{threads} threads");
    }
}

fn a_tensor_and_its_pixels_agree(on: Target) {
    let model = demo(Options { input_size: Some(95), ..options(on) });
    let pixels = pixels(3, 95);
    let input = model.activations(Input::Pixels(&pixels), &["input"]).unwrap().remove(0);
    assert_eq!(input.shape, [3, 95, 95, 3]);
    let from_tensor = model.logits(Input::Tensor(&input.values)).unwrap();
    assert_eq!(from_tensor, model.logits(Input::Pixels(&pixels)).unwrap());
    assert_eq!(model.predict_tensor(&input.values, 3).unwrap(), model.predict_pixels(&pixels, 3).unwrap());
    assert_eq!(model.predict_pixels(&pixels, 0).unwrap(), vec![vec![]; 3]);
}

fn activations_come_in_the_order_asked_for(on: Target) {
    let model = demo(options(on));
    let pixels = pixels(2, 224);
    let layers = ["fc8", "pool5", "conv1", "relu1", "avgpool", "drop7", "fc7"];
    let found = model.activations(Input::Pixels(&pixels), &layers).unwrap();
    let shapes: Vec<_> = found.iter().map(|a| a.shape).collect();
    let expected =
        [[2, 1, 1, 10], [2, 6, 6, 32], [2, 55, 55, 16], [2, 55, 55, 16], [2, 6, 6, 32], [2, 1, 1, 128], [2, 1, 1, 128]];
    assert_eq!(shapes, expected);
    assert_eq!(found[0].values, model.logits(Input::Pixels(&pixels)).unwrap());
    assert_eq!(found[2], found[3], "conv1 and relu1 are one step");
    assert_eq!(found[1], found[4], "the adaptive pool is the identity at 224");
    assert!(found[2].values.iter().all(|&v| v >= 0.0) && found[2].values.iter().any(|&v| v > 0.0));
    let error = model.activations(Input::Pixels(&pixels), &["conv9"]).unwrap_err();
    assert!(matches!(error, Error::Usage(_)) && error.to_string().contains("conv9"), "{error}");
}

/// Other input sizes, through the adaptive pool, against the oracle.
#[test]
fn torchvision_takes_other_input_sizes() {
    let bytes = testdata::bytes("samples/shapes.safetensors");
    for size in [63, 127, 160, 223, 225, 320, 512] {
        let options = Options { input_size: Some(size), ..options(CPU) };
        let model = demo(options);
        let pixels = pixels(2, size);
        let checkpoint = alexnet::weights::Checkpoint::from_bytes("demo".as_ref(), &bytes).unwrap();
        let weights = checkpoint.into_weights(model.network().variant, size).unwrap();
        let input: Vec<f64> =
            naive::input(&model.network().variant.preprocess, size, &pixels).into_iter().map(f64::from).collect();
        let oracle = naive::forward(&weights, &input).pop().unwrap().values;
        let expected: Vec<f32> = oracle.iter().map(|&v| v as f32).collect();
        let error = difference(&model.logits(Input::Pixels(&pixels)).unwrap(), &expected);
        assert!(error < 1e-4, "{size}: {error:e}");
    }
}

fn sessions_refuse_what_they_cannot_run(on: Target) {
    let model = demo(options(on));
    let mut session = model.session(2, &["pool1"]).unwrap();
    let pixels = pixels(3, 224);
    let image = 224 * 224 * 3;
    for len in [1, image - 1, image + 1, 3 * image] {
        let error = session.run(Input::Pixels(&pixels[..len])).unwrap_err();
        assert!(matches!(error, Error::Usage(_)), "{len}: {error}");
    }
    session.run(Input::Pixels(&pixels[..image])).unwrap();
    assert_eq!(session.logits().unwrap().len(), 10);
    assert_eq!(session.activation("pool1").unwrap().shape, [1, 27, 27, 16]);
    assert!(matches!(session.activation("pool2"), Err(Error::Usage(_))));
    session.run(Input::Pixels(&[])).unwrap();
    assert_eq!(session.top_k(1, Score::Prob).unwrap(), []);
    assert!(matches!(model.session(0, &[]), Err(Error::Usage(_))));
    for batch in [1 << 40, 1 << 60, usize::MAX] {
        let code = model.session(batch, &[]).err().map(|e| e.exit_code());
        assert!(matches!(code, Some(2 | 5)), "{batch}: {code:?}");
    }
    assert_eq!(model.predict_pixels(&[], 3).unwrap(), Vec::<Vec<_>>::new());
    assert!(matches!(model.predict_pixels(&pixels[1..], 3), Err(Error::Usage(_))));
}

/// Plans have public fields; one that does not fit its network is refused before a kernel relies on it.
#[test]
fn plans_that_do_not_fit_are_refused() {
    let model = demo(options(CPU));
    let good = Plan::new(model.network(), 4, &["pool1"]).unwrap();
    good.check(model.network()).unwrap();
    type Break = fn(&mut Plan);
    let broken: [(&str, Break); 13] = [
        ("a narrower last layer", |p| p.steps.last_mut().unwrap().output.c = 3),
        ("a small buffer", |p| p.buffers[0] -= 1),
        ("a missing buffer", |p| p.buffers.truncate(1)),
        ("in place", |p| p.steps[3].target = p.steps[3].source.unwrap()),
        ("another source", |p| p.steps[3].source = None),
        ("a missing step", |p| drop(p.steps.remove(2))),
        ("other weights", |p| {
            if let StepKind::Conv { weights, .. } = &mut p.steps[1].kind {
                *weights = 1;
            }
        }),
        ("a wider window", |p| {
            for step in &mut p.steps {
                if let StepKind::MaxPool(pool) = &mut step.kind {
                    pool.kernel = 4;
                }
            }
        }),
        ("a kept output that a later step writes over", |p| p.steps[1].kept = true),
        ("no steps", |p| p.steps.clear()),
        ("logits in the middle", |p| p.steps[1].logits = true),
        ("no logits", |p| p.steps.last_mut().unwrap().logits = false),
        ("a tower's half, whose output lies in a wider buffer", |p| {
            let whole = p.steps[1].clone();
            p.steps[1].half = Some(Box::new(Half { tower: 1, joined: true, gives: 0..0, whole }));
        }),
    ];
    for (what, break_it) in broken {
        let mut plan = good.clone();
        break_it(&mut plan);
        assert!(matches!(plan.check(model.network()), Err(Error::Usage(_))), "{what}");
    }
    let other = Plan::new(Model::load("seed:0", &options(CPU)).unwrap().network(), 1, &[]).unwrap();
    assert!(other.check(model.network()).is_err());
    // A sum of LRN over more channels than places are counted with.
    let paper = Model::load("samples/shapes-paper.safetensors", &options(CPU)).unwrap();
    let mut plan = Plan::new(paper.network(), 1, &[]).unwrap();
    plan.check(paper.network()).unwrap();
    let lrn = plan.steps.iter_mut().find_map(|step| match &mut step.kind {
        StepKind::Lrn(lrn) => Some(lrn),
        _ => None,
    });
    lrn.expect("the paper's").size = usize::MAX;
    assert!(matches!(plan.check(paper.network()), Err(Error::Usage(_))));
}

/// With `deterministic`, an image's logits are the same bits in any batch, at any place in it.
#[test]
fn deterministic_logits_do_not_depend_on_the_batch() {
    let image = 95 * 95 * 3;
    let pixels = pixels(11, 95);
    for on in [CPU, CUDA, CUDA_F16] {
        let model = demo(Options { deterministic: true, input_size: Some(95), ..options(on) });
        // The CPU has no other way.
        assert_eq!(model.device().ends_with("deterministic"), on.cuda, "{}", model.device());
        let expected = model.logits(Input::Pixels(&pixels)).unwrap();
        for (first, images) in [(0, 1), (1, 2), (3, 3), (2, 9), (10, 1)] {
            let batch = &pixels[first * image..(first + images) * image];
            let logits = model.logits(Input::Pixels(batch)).unwrap();
            assert_eq!(logits, expected[first * 10..(first + images) * 10], "{on:?}: {images} images from {first}");
        }
    }
}

/// More images than a session takes at once.
#[test]
fn activations_of_many_images() {
    let model = demo(options(CPU));
    let pixels = pixels(70, 224);
    let fc7 = model.activations(Input::Pixels(&pixels), &["fc7", "fc8"]).unwrap();
    assert_eq!((fc7[0].shape, fc7[0].values.len()), ([70, 1, 1, 128], 70 * 128));
    assert_eq!(fc7[1].values, model.logits(Input::Pixels(&pixels)).unwrap());
    assert_eq!(model.activations(Input::Pixels(&[]), &["pool1"]).unwrap()[0].shape, [0, 27, 27, 16]);
}

#[test]
fn precisions_and_devices_that_are_not_there() {
    for precision in [Precision::Tf32, Precision::Bfloat16] {
        let model = Model::demo(&Options { precision, ..options(CPU) });
        assert_eq!(model.err().unwrap().exit_code(), 2, "{precision:?}");
    }
    for (text, part) in [
        ("gpu", "'gpu'"),
        ("CPU", "'CPU'"),
        ("", "''"),
        ("cuda:", "'' in 'cuda:'"),
        ("cuda:x", "'x' in 'cuda:x'"),
        ("cuda:0,", "'' in 'cuda:0,'"),
        ("cuda:0, 1", "' 1' in"),
        ("cuda:1,0,1", "cuda:1 is named twice"),
    ] {
        let error = text.parse::<Device>().unwrap_err();
        assert!(error.exit_code() == 2 && error.to_string().contains(part), "{text}: {error}");
    }
    assert_eq!("cuda".parse::<Device>().unwrap(), Device::Cuda(vec![0]));
    for device in [Device::Auto, Device::Cpu, Device::Cuda(vec![0]), Device::Cuda(vec![2, 0])] {
        assert_eq!(device.to_string().parse::<Device>().unwrap(), device);
    }
    assert_eq!("cuda:3".parse::<Device>().unwrap(), Device::Cuda(vec![3]));
    assert_eq!("cuda:2,0".parse::<Device>().unwrap(), Device::Cuda(vec![2, 0]));
    for (ordinals, part) in [(vec![], "names none"), (vec![2, 2], "cuda:2 is named twice")] {
        let error = Model::demo(&Options { device: Device::Cuda(ordinals), ..Options::default() }).err().unwrap();
        assert!(error.exit_code() == 2 && error.to_string().contains(part), "{error}");
    }
}

fn predictions_are_probabilities_best_first(on: Target) {
    let model = demo(options(on));
    let pixels = pixels(4, 224);
    for predictions in model.predict_pixels(&pixels, 99).unwrap() {
        assert_eq!(predictions.len(), 10, "never more than the classes");
        assert!(predictions.windows(2).all(|w| w[0].score >= w[1].score));
        let sum: f32 = predictions.iter().map(|p| p.score).sum();
        assert!((sum - 1.0).abs() < 1e-5, "{sum}");
    }
}

/// A file that cannot be used has an error of its own; the others are predicted.
fn files_fail_one_by_one(on: Target) {
    let model = demo(options(on));
    let good = testdata::path("samples/shapes/star/0.jpg");
    let files = [good.clone(), testdata::path("tests/data/print/half.txt"), testdata::path("no/such/file.jpg"), good];
    let results = model.predict_files(&files, 1).unwrap();
    let shown: Vec<_> =
        results.iter().map(|r| r.as_ref().map(|p| model.label(p[0].index)).map_err(|e| e.exit_code())).collect();
    assert_eq!(shown, [Ok("star".into()), Err(3), Err(3), Ok("star".into())]);
}

/// Pictures whose activations exceed float16 get float32's classes, as pipelines give them.
#[test]
fn overflows_are_computed_again_in_float32() {
    let model = |on: Target| {
        let options = Options { input_size: Some(71), ..options(on) };
        Model::from_checkpoint(testdata::overflowing_demo(), &options).unwrap()
    };
    let (narrow, wide) = (model(CUDA_F16), model(CUDA));
    let pixels = pixels(2, 71);
    assert!(narrow.logits(Input::Pixels(&pixels)).unwrap().iter().all(|logit| !logit.is_finite()), "the case is one");
    for k in [1, 99] {
        let found = narrow.predict_pixels(&pixels, k).unwrap();
        assert_eq!(found, wide.predict_pixels(&pixels, k).unwrap());
    }
    assert_eq!(narrow.predict_pixels(&pixels, 0).unwrap(), vec![vec![]; 2]);
    let file = testdata::path("samples/shapes/star/0.jpg");
    let files = |model: &Model| model.predict_files(&[&file], 2).unwrap().pop().unwrap().unwrap();
    assert_eq!(files(&narrow), files(&wide));
    // A tensor is not a picture.
    let input = narrow.activations(Input::Pixels(&pixels), &["input"]).unwrap().pop().unwrap();
    assert!(narrow.predict_tensor(&input.values, 1).unwrap()[0][0].score.is_nan());
}
