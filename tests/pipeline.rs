//! Batches ahead of time: a pipeline gives what one session run after another gives, whatever the sizes of batches.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use alexnet::net::{Network, VARIANTS};
use alexnet::weights::{LayerWeights, Weights, seeded};
use alexnet::{
    BatchTimes, Device, Input, Model, Options, Pipeline, Pixels, Precision, Prediction, Score, Scored, Split,
};

use crate::device::{CPU, CUDA, CUDA_F16, Target, backend, options};
use crate::on_every_target;

on_every_target! {
    batches_of_any_size_come_out_in_order
    an_abandoned_pipeline_gives_its_pixels_back
}

/// The demo on small pictures, which an emulated device gets through sooner.
fn model(on: Target) -> Model {
    Model::demo(&Options { input_size: Some(71), ..options(on) }).unwrap()
}

/// `images` pictures from number `first` on, in memory of the model's device.
fn pictures(model: &Model, first: usize, images: usize) -> Pixels {
    let mut pixels = model.pixels(images).unwrap();
    let size = model.network().input_size;
    for (index, image) in pixels.chunks_exact_mut(3 * size * size).enumerate() {
        image.copy_from_slice(&seeded::picture(11, first + index, size));
    }
    pixels
}

/// What a session says of the same pictures, one run a batch.
fn expected(model: &Model, pixels: &[u8], k: usize, score: Score) -> Vec<Vec<Prediction>> {
    let image = model.network().input().len();
    let mut session = model.session(pixels.len() / image, &[]).unwrap();
    session.run(Input::Pixels(pixels)).unwrap();
    session.top_k(k, score).unwrap().chunks_exact(k).map(<[_]>::to_vec).collect()
}

/// Scores in the last bits depend on the kernels that a batch size takes.
fn same(on: Target, what: &str, found: &[Scored], expected: &[Vec<Prediction>]) {
    assert_eq!(found.len(), expected.len(), "{what}");
    for (image, (found, expected)) in found.iter().zip(expected).enumerate() {
        assert!(found.finite && found.precision == on.precision, "{what}, image {image}: {found:?}");
        let spread = expected.iter().map(|p| p.score.abs()).fold(0.0, f32::max);
        for (found, expected) in found.predictions.iter().zip(expected) {
            let error = f64::from((found.score - expected.score).abs() / spread);
            assert!(error < on.network_error(), "{what}, image {image}: {found:?}, expected {expected:?}");
        }
        let labels = |predictions: &[Prediction]| predictions.iter().map(|p| p.index).collect::<Vec<_>>();
        // The pictures are noise, on which neighbouring ranks are close: the first is what counts.
        assert_eq!(labels(&found.predictions)[0], labels(expected)[0], "{what}, image {image}");
    }
}

fn batches_of_any_size_come_out_in_order(on: Target) {
    let model = model(on);
    for (batch, score) in [(1, Score::Prob), (3, Score::Logit)] {
        let k = 3;
        let mut pipeline = model.pipeline(batch, k, score).unwrap();
        assert!(pipeline.collect().unwrap().is_none(), "nothing was submitted");
        let (mut first, mut waiting) = (0, VecDeque::new());
        let check = |pipeline: &mut dyn Pipeline, (first, images): (usize, usize)| {
            let done = pipeline.collect().unwrap().expect("one is under way");
            let pixels = pictures(&model, first, images);
            assert!(done.pixels[..] == pixels[..], "images {first} on: the pixels come back");
            same(on, &format!("images {first} on"), &done.scored, &expected(&model, &pixels, k, score));
        };
        // Often enough that every slot runs every size as a graph.
        for images in [batch, batch, 1, 1, batch, 2, 1, batch].map(|images| images.min(batch)) {
            if waiting.len() == pipeline.depth() {
                check(&mut *pipeline, waiting.pop_front().expect("it is full"));
            }
            pipeline.submit(pictures(&model, first, images)).unwrap();
            waiting.push_back((first, images));
            first += images;
        }
        while let Some(batch) = waiting.pop_front() {
            check(&mut *pipeline, batch);
        }
        assert!(pipeline.collect().unwrap().is_none(), "all were collected");
    }
}

fn an_abandoned_pipeline_gives_its_pixels_back(on: Target) {
    let model = model(on);
    let mut pipeline = model.pipeline(2, 1, Score::Prob).unwrap();
    let depth = pipeline.depth();
    for batch in 0..depth {
        pipeline.submit(pictures(&model, 2 * batch, 2)).unwrap();
    }
    let pixels = pipeline.abandon();
    assert_eq!(pixels.len(), depth);
    for (batch, pixels) in pixels.into_iter().enumerate() {
        assert!(pixels[..] == pictures(&model, 2 * batch, 2)[..], "batch {batch}");
    }
    // It is as good as new.
    assert!(pipeline.collect().unwrap().is_none());
    let pixels = pictures(&model, 0, 2);
    let expected = expected(&model, &pixels, 1, Score::Prob);
    pipeline.submit(pixels).unwrap();
    same(on, "after", &pipeline.collect().unwrap().unwrap().scored, &expected);
    // Dropped with work under way.
    pipeline.submit(pictures(&model, 0, 2)).unwrap();
}

/// Batches that are none: refused, whatever is under way.
#[test]
fn batches_that_do_not_fit_are_refused() {
    for on in [CPU, CUDA] {
        let model = model(on);
        let mut pipeline = model.pipeline(2, 1, Score::Prob).unwrap();
        for pixels in [pictures(&model, 0, 3), pictures(&model, 0, 2).split_to(100), Pixels::zeroed(0).unwrap()] {
            let error = pipeline.submit(pixels).unwrap_err();
            assert!(matches!(error, alexnet::Error::Usage(_)), "{error}");
        }
        assert!(pipeline.collect().unwrap().is_none());
        assert!(model.pipeline(0, 1, Score::Prob).is_err());
    }
}

/// A picture whose activations exceed float16 is computed in float32, and said so; its neighbours are not.
#[test]
fn overflows_are_computed_again_in_float32() {
    // Pictures of one colour: white ones overflow conv2, black ones are far from it.
    let widths = [8, 8, 8, 8, 8, 16, 16, 10];
    let network = Network::with_widths(&VARIANTS[0], &widths, 71).unwrap();
    let layers = network.parameters().map(|parameter| {
        let inputs: usize = parameter.weight_shape[1..].iter().product();
        let scale = match parameter.layer {
            "conv1" => 100.0,
            "conv2" => 200.0,
            "conv3" => 1e-4,
            _ => 1.0,
        };
        let weight =
            (0..parameter.weight_shape[0] * inputs).map(|index| scale * (1 + index % 3) as f32 / inputs as f32);
        LayerWeights {
            weight: weight.collect(),
            bias: (0..parameter.weight_shape[0]).map(|k| k as f32 * 0.01).collect(),
        }
    });
    let weights = Weights::new(network.clone(), layers.collect()).unwrap();
    let plan = || alexnet::plan::Plan::new(&network, 4, &[]).unwrap();
    let image = network.input().len();
    let fill = |pixels: &mut [u8]| {
        for (index, image) in pixels.chunks_exact_mut(image).enumerate() {
            image.fill(if index % 2 == 0 { 60 } else { 255 });
        }
    };
    let run = |on: Target| {
        let backend = backend(on, weights.clone());
        let mut pipeline = backend.pipeline(plan(), 2, Score::Logit).unwrap();
        let mut pixels = backend.pixels(4 * image).unwrap();
        fill(&mut pixels);
        pipeline.submit(pixels).unwrap();
        pipeline.collect().unwrap().unwrap().scored
    };
    let wide = run(CUDA);
    assert!(wide.iter().all(|scored| scored.finite && scored.precision == Precision::Float32));
    let narrow = run(CUDA_F16);
    assert!(narrow.iter().all(|scored| scored.finite));
    for (index, (narrow, wide)) in narrow.iter().zip(&wide).enumerate() {
        match index % 2 {
            0 => assert_eq!(narrow.precision, Precision::Float16, "{narrow:?}"),
            _ => assert_eq!(narrow, wide),
        }
    }
}

/// Two batches of one image a slot, with pixels copied, and one with those that the device holds: what comes out, and the
/// times.
fn twice_a_slot(model: &Model, pipeline: &mut dyn Pipeline) -> Vec<(bool, Vec<Scored>, Option<BatchTimes>)> {
    let (depth, mut waiting, mut done) = (pipeline.depth(), VecDeque::new(), vec![]);
    for batch in 0..3 * depth {
        let resident = batch >= 2 * depth;
        match (waiting.pop_front(), resident) {
            (Some(pixels), true) => pipeline.resubmit(pixels).unwrap(),
            _ => pipeline.submit(pictures(model, batch % depth, 1)).unwrap(),
        }
        if batch + 1 - done.len() == depth {
            let collected = pipeline.collect().unwrap().expect("one is under way");
            done.push((done.len() >= 2 * depth, collected.scored, collected.times));
            waiting.push_back(collected.pixels);
        }
    }
    while let Some(collected) = pipeline.collect().unwrap() {
        done.push((true, collected.scored, collected.times));
    }
    done
}

/// Clocks change no result, and tell the parts of each batch in order, all of them since the clocks were started.
#[test]
fn parts_of_a_batch_are_timed() {
    let cuda = |devices: &[usize], split| (Device::Cuda(devices.to_vec()), split);
    let mut layouts = vec![(Device::Cpu, None), (Device::Cpu, Some(Split::TwoStream)), cuda(&[0], None)];
    layouts.push(cuda(&[0], Some(Split::TwoStream)));
    if crate::device::second().is_some() {
        layouts.push(cuda(&[0, 1], Some(Split::TwoGpu)));
    }
    // Events tell time in float32 milliseconds.
    let slack = Duration::from_micros(1);
    for (device, split) in layouts {
        let (what, copies) = (format!("{device:?}, {split:?}"), device != Device::Cpu);
        // What an emulated device is quickest in.
        let precision = if copies { Precision::Float16 } else { Precision::Float32 };
        let options = Options { device, split, precision, input_size: Some(63), ..Options::default() };
        let model = Model::demo(&options).unwrap();
        let mut pipeline = model.pipeline(1, 3, Score::Logit).unwrap();
        let untimed = twice_a_slot(&model, &mut *pipeline);
        assert!(untimed.iter().all(|(.., times)| times.is_none()), "{what}");
        let begin = Instant::now();
        pipeline.time().unwrap();
        let timed = twice_a_slot(&model, &mut *pipeline);
        let wall = begin.elapsed() + slack;
        assert_eq!((timed.len(), untimed.len()), (3 * pipeline.depth(), 3 * pipeline.depth()), "{what}");
        let mut before = Duration::ZERO;
        for (batch, ((resident, scored, times), (_, expected, _))) in timed.iter().zip(&untimed).enumerate() {
            let what = format!("{what}, batch {batch}");
            assert_eq!(scored, expected, "{what}");
            let BatchTimes { enqueue, copy_in, compute, copy_out } = times.as_ref().expect("it is timed");
            assert!(*enqueue < wall, "{what}: {enqueue:?}");
            assert_eq!((copy_in.is_some(), copy_out.is_some()), (copies && !resident, copies), "{what}");
            let parts: Vec<_> = [*copy_in, Some(*compute), *copy_out].into_iter().flatten().collect();
            assert!(
                parts.iter().all(|part| part.begin <= part.end) && compute.begin < compute.end,
                "{what}: {parts:?}"
            );
            // The second of two devices may get its pixels when the first one computes.
            let ordered = |a: &alexnet::Interval, b: &alexnet::Interval| match split {
                Some(Split::TwoGpu) => a.begin <= b.begin + slack && a.end <= b.end + slack,
                _ => a.end <= b.begin + slack,
            };
            assert!(parts.is_sorted_by(ordered), "{what}: {parts:?}");
            let end = parts.last().expect("there is one").end;
            assert!(end <= wall, "{what}: {parts:?} in {wall:?}");
            assert!(before <= compute.begin + slack, "{what}: {compute:?}, the batch before till {before:?}");
            before = end;
        }
        // Later clocks begin anew.
        pipeline.time().unwrap();
        pipeline.submit(pictures(&model, 0, 1)).unwrap();
        let again = pipeline.collect().unwrap().unwrap();
        assert_eq!(again.scored, untimed[0].1, "{what}");
        assert!(again.times.unwrap().compute.begin < wall, "{what}");
    }
}
