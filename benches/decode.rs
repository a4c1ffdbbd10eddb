//! Encoded pictures to pixels at the network's size, on one thread: both JPEG decoders, the resize alone, and PNG.

use std::hint::black_box;
use std::path::Path;

use alexnet::image::{DecodeOptions, Decoder, decode, resize_crop};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

fn benches(criterion: &mut Criterion) {
    let file = |name: &str| {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/images").join(name);
        std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
    };
    let mut group = criterion.benchmark_group("decode");
    group.throughput(Throughput::Elements(1));
    let mozjpeg = DecodeOptions::default();
    let fast = DecodeOptions { decoder: Decoder::Fast, ..mozjpeg };
    // landscape.jpg is 500x375 and subsampled 4:2:0, as most of ImageNet.
    for (name, picture, options) in [
        ("jpeg-mozjpeg", "landscape.jpg", mozjpeg),
        ("jpeg-fast", "landscape.jpg", fast),
        ("png", "lossless.png", mozjpeg),
    ] {
        let bytes = file(picture);
        group.bench_function(name, |b| b.iter(|| decode(black_box(&bytes), options).expect("a good picture")));
    }
    let image = decode(&file("landscape.jpg"), mozjpeg).expect("a good picture");
    let mut pixels = vec![0; 224 * 224 * 3];
    group.bench_function("resize-crop", |b| b.iter(|| resize_crop(black_box(&image), 256, 224, &mut pixels)));
    group.finish();
}

criterion_group!(decode_benches, benches);
criterion_main!(decode_benches);
