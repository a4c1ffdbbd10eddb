//! The two towers: bit for bit the whole network, with half of its weights each.

use std::num::NonZeroUsize;

use alexnet::backend::{Backend, Input};
use alexnet::cpu::{self, CpuTowers};
use alexnet::cuda::{CudaBackend, Settings, Towers};
use alexnet::net::{Network, VARIANTS, Variant};
use alexnet::plan::Plan;
use alexnet::weights::{LayerWeights, Weights, seeded};
use alexnet::{Error, Model, Options, Split, Work};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::device::{self, CPU, Target, options};
use crate::testdata;

mod cuda;

/// On the CPU alone: what [`cuda`] has sizes of its own for.
mod cpu_two_stream {
    use super::*;

    #[test]
    fn narrow_networks() {
        check_widths(CPU, Split::TwoStream, &[16, 48, 64, 32, 24, 64, 40, 10], &[1, 3, 8]);
    }

    #[test]
    fn towers_of_one_and_of_three_channels() {
        check_widths(CPU, Split::TwoStream, &[2, 2, 2, 2, 2, 2, 2, 3], &[1, 5]);
        check_widths(CPU, Split::TwoStream, &[6, 10, 6, 14, 10, 6, 22, 7], &[1, 5]);
    }

    #[test]
    fn many_images() {
        for size in [63, 95] {
            let torchvision = Variant::by_name("torchvision").unwrap();
            let network = Network::with_widths(torchvision, &[16, 48, 64, 32, 24, 64, 40, 10], size).unwrap();
            check(CPU, Split::TwoStream, random(network), &[130]);
        }
    }
}

/// Stamps every named function as a test of each device and split.
macro_rules! on_every_split {
    ($($(#[$of_cuda:meta])* $test:ident)*) => {
        on_every_split! { on_cpu_two_stream CPU TwoStream: $($test)* }
        on_every_split! { on_cuda_f16_two_stream CUDA_F16 TwoStream: $($(#[$of_cuda])* $test)* }
        on_every_split! { on_cuda_f16_two_gpu CUDA_F16 TwoGpu: $($(#[$of_cuda])* $test)* }
    };
    ($name:ident $on:ident $split:ident: $($(#[$of_cuda:meta])* $test:ident)*) => {
        mod $name {
            $(#[test] $(#[$of_cuda])* fn $test() {
                let split = alexnet::Split::$split;
                if split == alexnet::Split::TwoStream || $crate::device::second().is_some() {
                    super::$test($crate::device::$on, split);
                }
            })*
        }
    };
}

on_every_split! {
    #[ignore = "eighty pictures, run by .ci/run"] demo_checkpoints_label_the_samples
    #[ignore = "forty runs, by .ci/run"] towers_are_shared_between_threads
    a_timeline_shows_where_the_towers_meet
    plans_that_end_early
    dropout_is_refused
}

/// `weights` in two towers on `on`.
fn towers(on: Target, split: Split, weights: Weights) -> Box<dyn Backend> {
    if !on.cuda {
        return Box::new(CpuTowers::new(weights, cpu::Settings::new(3)).unwrap());
    }
    let settings = Settings { precision: on.precision, fc: on.fc, ..Settings::default() };
    let second = (split == Split::TwoGpu).then(|| device::second().expect("asked for before"));
    let towers = match &second {
        Some(second) => Towers::TwoGpu(device::cuda(), second),
        None => Towers::TwoStream(device::cuda()),
    };
    Box::new(CudaBackend::split(weights, towers, settings).unwrap())
}

/// Random weights that keep activations of the order of 1.
fn random(network: Network) -> Weights {
    let mut rng = ChaCha8Rng::seed_from_u64(5);
    let layers = network.parameters().map(|parameter| {
        let bound = (6.0 / parameter.fan_in() as f32).sqrt();
        let mut draw = |count: usize| (0..count).map(|_| rng.random_range(-bound..bound)).collect();
        let filters = parameter.weight_shape[0];
        LayerWeights { weight: draw(filters * parameter.fan_in()), bias: draw(filters) }
    });
    let layers = layers.collect();
    Weights::new(network, layers).unwrap()
}

fn pixels(images: usize, size: usize) -> Vec<u8> {
    (0..images).flat_map(|index| seeded::picture(3, index, size)).collect()
}

fn assert_same_bits(what: &str, found: &[f32], expected: &[f32]) {
    assert_eq!(found.len(), expected.len(), "{what}");
    if let Some(at) = found.iter().zip(expected).position(|(f, e)| f.to_bits() != e.to_bits()) {
        panic!("{what}: {} at {at}, {} in the whole network", found[at], expected[at]);
    }
}

/// Logits, with and without kept layers, and all activations are those of the whole network, in sessions for as many images.
fn check(on: Target, split: Split, weights: Weights, batches: &[usize]) {
    let network = weights.network().clone();
    let (whole, towers) = (device::backend(on, weights.clone()), towers(on, split, weights));
    let names: Vec<&str> = ["input"].into_iter().chain(network.nodes.iter().map(|node| node.layer.name)).collect();
    for &images in batches {
        let pixels = pixels(images, network.input_size);
        for keep in [&names[..], &[]] {
            let plan = Plan::new(&network, images + 1, keep).unwrap();
            let [mut whole, mut towers] = [&whole, &towers].map(|backend| backend.session(plan.clone()).unwrap());
            for input in [&pixels[..pixels.len() / images], &pixels] {
                let what = format!("{} {:?}, {images} images", network.variant.name, network.widths());
                whole.run(Input::Pixels(input)).unwrap();
                towers.run(Input::Pixels(input)).unwrap();
                for name in keep {
                    let [expected, found] = [&mut whole, &mut towers].map(|session| session.activation(name).unwrap());
                    assert_eq!(found.shape, expected.shape, "{what}, {name}");
                    assert_same_bits(&format!("{what}, {name}"), &found.values, &expected.values);
                }
                assert_same_bits(&what, towers.logits().unwrap(), whole.logits().unwrap());
                let [expected, found] =
                    [&mut whole, &mut towers].map(|session| session.top_k(3, Default::default()).unwrap().to_vec());
                assert_eq!(found, expected, "{what}");
            }
        }
    }
}

fn check_widths(on: Target, split: Split, widths: &[usize; 8], batches: &[usize]) {
    for variant in &VARIANTS {
        let network = Network::with_widths(variant, widths, variant.input_size).unwrap();
        check(on, split, random(network), batches);
    }
}

/// The published widths, with one image and with enough for a GEMM.
#[test]
#[ignore = "half a minute for six full-size networks, run by .ci/run"]
fn published_networks() {
    for variant in &VARIANTS {
        let weights = seeded::checkpoint(variant, 0).unwrap().into_weights(variant, variant.input_size).unwrap();
        check(CPU, Split::TwoStream, weights, &[1, 7]);
    }
}

fn demo_checkpoints_label_the_samples(on: Target, split: Split) {
    let expected = testdata::json("tests/data/demo/expected.json");
    for (checkpoint, recorded) in expected.as_object().unwrap() {
        let path = testdata::path(&format!("samples/{checkpoint}"));
        let model = Model::load(&path, &Options { split: Some(split), ..options(on) }).unwrap();
        assert!(model.device().contains("two"), "{}", model.device());
        let pictures = recorded["pictures"].as_object().unwrap();
        let file = |name: &String| testdata::path(&name.replace("samples/", "samples/shapes/"));
        let files: Vec<_> = pictures.keys().map(file).collect();
        let results = model.predict_files(&files, 1).unwrap();
        assert_eq!(results.len(), 40);
        for ((name, recorded), result) in pictures.iter().zip(results) {
            let best = result.unwrap()[0];
            assert_eq!(model.label(best.index), recorded["label"].as_str().unwrap(), "{checkpoint} {name}");
        }
    }
}

/// Several sessions at once, on threads that the towers of all of them share.
fn towers_are_shared_between_threads(on: Target, split: Split) {
    let model = Model::demo(&Options { split: Some(split), input_size: Some(95), ..options(on) }).unwrap();
    let pixels = pixels(2, 95);
    let expected = model.logits(Input::Pixels(&pixels)).unwrap();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..10 {
                    assert_eq!(model.logits(Input::Pixels(&pixels)).unwrap(), expected);
                }
            });
        }
    });
}

/// Every layer of both towers in order, a join before each that takes what the other has, and no time between them.
fn a_timeline_shows_where_the_towers_meet(on: Target, split: Split) {
    let caffe = Variant::by_name("caffe").unwrap();
    let network = Network::with_widths(caffe, &[16, 48, 64, 32, 24, 64, 40, 10], caffe.input_size).unwrap();
    let backend = towers(on, split, random(network.clone()));
    let mut session = backend.session(Plan::new(&network, 4, &[]).unwrap()).unwrap();
    let pixels = pixels(3, caffe.input_size);
    session.run(Input::Pixels(&pixels)).unwrap();
    let expected = session.logits().unwrap().to_vec();
    let timeline = session.timeline(Input::Pixels(&pixels)).unwrap();
    assert_same_bits("timed", session.logits().unwrap(), &expected);

    // Values of an image that come from the other tower, which has half of the channels.
    let border = [("norm1", 55 * 55 * 2), ("norm2", 27 * 27 * 2)];
    let halves = [("conv3", 13 * 13 * 24), ("fc6", 6 * 6 * 12), ("fc7", 32)];
    let joins = [&border[..], &halves].concat();
    let steps: Vec<_> = session.plan().steps.iter().map(|step| step.layers.clone()).collect();
    let (last, before) = steps.split_last().unwrap();
    assert_eq!((last[0], before.last().unwrap()[0]), ("fc8", "fc7"));
    for (tower, track) in timeline.tracks.iter().enumerate() {
        assert!(track.place.contains(&format!("tower {tower}")), "{}", track.place);
        let (mut layers, mut found) = (vec![], vec![]);
        let mut end = Default::default();
        for span in &track.spans {
            assert!(span.begin == end && span.end >= span.begin, "{span:?}");
            end = span.end;
            match &span.work {
                Work::Layers(names) => layers.push(names.clone()),
                Work::Join { layer, bytes } => found.push((*layer, bytes / (3 * on.element().bytes()), layers.len())),
            }
        }
        // On a GPU the second one waits for the first to begin, and on the same one has its input from there.
        found.retain(|&(_, values, _)| values > 0);
        let shared = usize::from(tower == 1 && on.cuda && split == Split::TwoStream);
        // Each join is just before its layer.
        assert!(found.iter().all(|&(layer, _, place)| steps[place + shared][0] == layer), "{found:?}");
        let found: Vec<_> = found.into_iter().map(|(layer, values, _)| (layer, values)).collect();
        match tower {
            0 => assert_eq!((layers, found), (steps.clone(), [&joins[..], &[("fc8", 20)]].concat())),
            _ => assert_eq!((&layers[..], found), (&before[shared..], joins.clone())),
        }
        assert!(end > Default::default() && end <= timeline.total());
    }
    assert_eq!(timeline.tracks.len(), 2);
}

fn dropout_is_refused(on: Target, split: Split) {
    let model = Model::demo(&Options { split: Some(split), ..options(on) }).unwrap();
    let error = model.train_session(1, &[]).err().unwrap();
    assert!(matches!(error, Error::Usage(_)) && error.to_string().contains("drop6"), "{error}");
}

/// The paper's network, by hand: 48, 128, 192, 192 and 128 filters a tower, 2048 outputs each of fc6 and fc7, and all of fc8 in
/// the first; two buffers for the largest two of a tower's activations, one for both towers' pool2, and one for half of that.
#[test]
fn each_tower_holds_half() {
    let paper = Variant::by_name("paper").unwrap();
    let network = Network::published(paper, 1000).unwrap();
    let zeros = network
        .parameters()
        .map(|p| LayerWeights { weight: vec![0.0; p.len() - p.weight_shape[0]], bias: vec![0.0; p.weight_shape[0]] });
    let weights = Weights::new(network.clone(), zeros.collect()).unwrap();
    let holdings =
        CpuTowers::new(weights, cpu::Settings::new(3)).unwrap().holdings(Plan::new(&network, 2, &[]).unwrap()).unwrap();
    let filters = [48 * 11 * 11 * 3, 128 * 5 * 5 * 48, 192 * 3 * 3 * 256, 192 * 3 * 3 * 192, 128 * 3 * 3 * 192];
    let half = filters.iter().sum::<usize>() + (48 + 128 + 192 + 192 + 128) + 2048 * (6 * 6 * 256 + 1 + 4096 + 1);
    let fc8 = 1000 * (4096 + 1);
    assert_eq!(2 * half + fc8, 60_965_224, "the published count");
    // As packed: 49 points a channel and filter, conv1's channels being blocks of 4 x 4 pixels; columns in sixteens; and as much
    // padding as a row of what a convolution takes.
    let points = 49 * (48 * 48 + 128 * 48 + 192 * 256 + 192 * 192 + 128 * 192) + (48 + 128 + 192 + 192 + 128);
    let rows = 227 * 3 + 27 * 48 + 13 * 256 + 13 * 192 + 13 * 192;
    let half = points + rows + 2048 * (6 * 6 * 256 + 1 + 4096 + 1);
    let fc8 = 1008 * (4096 + 1);
    assert_eq!([&holdings[0], &holdings[1]].map(|h| h.weights), [4 * (half + fc8), 4 * half]);
    let buffers = 227 * 227 * 3 + 55 * 55 * 48 + 13 * 13 * 256 + 13 * 13 * 128;
    assert!(holdings.iter().all(|holding| holding.buffers == 4 * 2 * buffers), "{holdings:?}");
    let places: Vec<_> = holdings.iter().map(|h| &h.place[..]).collect();
    assert_eq!(places, ["tower 0, 2 threads of the CPU", "tower 1, 1 thread of the CPU"]);
}

/// However many threads there are, one for each tower at least.
#[test]
fn threads_are_divided() {
    let pixels = pixels(6, 95);
    let model = |threads: usize, split| {
        let threads = NonZeroUsize::new(threads);
        Model::demo(&Options { threads, split, input_size: Some(95), ..options(CPU) }).unwrap()
    };
    let expected = model(1, None).logits(Input::Pixels(&pixels)).unwrap();
    for (threads, divided) in [(1, "1 + 1 threads"), (2, "1 + 1 threads"), (3, "2 + 1 threads"), (8, "4 + 4 threads")] {
        let model = model(threads, Some(Split::TwoStream));
        assert!(model.device().contains(divided), "{}", model.device());
        assert_same_bits(divided, &model.logits(Input::Pixels(&pixels)).unwrap(), &expected);
    }
}

#[test]
fn what_cannot_be_split_is_refused_when_it_is_loaded() {
    let refused = |split, parts: &[&str]| {
        let error = Model::demo(&Options { split: Some(split), ..options(CPU) }).err().unwrap();
        assert!(matches!(error, Error::Usage(_)), "{error:?}");
        assert!(parts.iter().all(|part| error.to_string().contains(part)), "{error}");
    };
    refused(Split::TwoGpu, &["CPU", "two-stream"]);
    let torchvision = Variant::by_name("torchvision").unwrap();
    let odd = Network::with_widths(torchvision, &[4, 4, 5, 4, 4, 4, 4, 3], 63).unwrap();
    let error = CpuTowers::new(random(odd), cpu::Settings::new(2)).err().unwrap();
    assert!(matches!(error, Error::Usage(_)), "{error:?}");
    assert!(["conv3", "5"].iter().all(|part| error.to_string().contains(part)), "{error}");
}

fn plans_that_end_early(on: Target, split: Split) {
    // With fc7, of which the towers have halves, and would need the whole.
    let torchvision = Variant::by_name("torchvision").unwrap();
    let even = Network::with_widths(torchvision, &[4, 4, 4, 4, 4, 4, 4, 3], 63).unwrap();
    let mut plan = Plan::new(&even, 1, &[]).unwrap();
    plan.steps.pop();
    plan.steps.last_mut().unwrap().logits = true;
    let towers = towers(on, split, random(even.clone()));
    let error = towers.session(plan.clone()).err().unwrap();
    assert!(matches!(error, Error::Usage(_)) && error.to_string().contains("fc7"), "{error:?}");

    // With a layer without weights: the first tower takes the other's half of its input.
    plan.steps.truncate(9);
    plan.steps[8].logits = true;
    assert_eq!(plan.steps[8].layers[0], "pool5");
    let whole = device::backend(on, random(even));
    let [expected, found] = [whole, towers].map(|backend| {
        let mut session = backend.session(plan.clone()).unwrap();
        session.run(Input::Pixels(&pixels(1, 63))).unwrap();
        session.logits().unwrap().to_vec()
    });
    assert_same_bits("pool5", &found, &expected);
}
