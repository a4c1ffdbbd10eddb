//! Pillow's antialiased bilinear resize: 22-bit fixed point, rows then columns, rounded to bytes in between.
//!
//! Only what the crop shows is computed: a picture of 16384 x 1 scaled to a short side of 256 would be four million
//! pixels wide.

use std::ops::Range;

use super::RgbImage;

/// Fraction bits of a coefficient: 32 less the 8 of a sample and 2 of headroom.
const PRECISION: u32 = 32 - 8 - 2;

/// The short side that a picture is scaled to before the crop: 256 for inputs of 224 and 227, in that proportion to
/// 224 for others.
pub fn resize_short_side(input_size: usize) -> usize {
    match input_size {
        227 => 256,
        // round(n * 256 / 224)
        n => (n * 16 + 7) / 14,
    }
}

/// Scales `image` so that its short side is `short_side` (the long side is rounded down), then takes the centre
/// `crop` x `crop`.
///
/// `out` is `(crop, crop, 3)` bytes. Offsets of half a pixel round to even.
///
/// # Panics
/// If `out` has another length, `crop` exceeds `short_side` or is zero, or `image` is not
/// `width * height * 3` bytes with at least one pixel.
pub fn resize_crop(image: &RgbImage, short_side: usize, crop: usize, out: &mut [u8]) {
    let &RgbImage { width, height, ref pixels } = image;
    assert!((1..=short_side).contains(&crop), "a crop of {crop} does not fit a short side of {short_side}");
    assert_eq!(out.len(), crop * crop * 3, "out is not {crop} x {crop} x 3");
    assert!(width > 0 && pixels.len() == width * height * 3, "pixels are not {height} x {width} x 3");

    let short = width.min(height);
    let axis = |source: usize| Axis::new(source, short_side * source / short, crop);
    let (columns, rows) = (axis(width), axis(height));

    let first = rows.spans[0].start;
    let last = rows.spans[crop - 1].end;
    let row_len = crop * 3;
    let mut between = vec![0; (last - first) * row_len];
    let sources = pixels.chunks_exact(width * 3).skip(first);
    for (target, source) in between.chunks_exact_mut(row_len).zip(sources) {
        let source = source.as_chunks::<3>().0;
        for (target, (span, weights)) in target.as_chunks_mut::<3>().0.iter_mut().zip(columns.taps()) {
            let mut sum = [1 << (PRECISION - 1); 3];
            for (pixel, &weight) in source[span].iter().zip(weights) {
                for c in 0..3 {
                    sum[c] += i32::from(pixel[c]) * weight;
                }
            }
            *target = sum.map(to_byte);
        }
    }

    let mut sums = vec![0; row_len];
    for (target, (span, weights)) in out.chunks_exact_mut(row_len).zip(rows.taps()) {
        sums.fill(1 << (PRECISION - 1));
        for (row, &weight) in between[(span.start - first) * row_len..].chunks_exact(row_len).zip(weights) {
            for (sum, &sample) in sums.iter_mut().zip(row) {
                *sum += i32::from(sample) * weight;
            }
        }
        for (target, &sum) in target.iter_mut().zip(&sums) {
            *target = to_byte(sum);
        }
    }
}

fn to_byte(sum: i32) -> u8 {
    (sum >> PRECISION).clamp(0, 255) as u8
}

/// The source samples and weights of each output position of one axis.
struct Axis {
    spans: Vec<Range<usize>>,
    /// `stride` weights a position, of which the first ones count, as many as its span is long.
    weights: Vec<i32>,
    stride: usize,
}

impl Axis {
    /// The middle `crop` positions of `source` samples scaled to `target`: a triangle as wide as two output positions,
    /// or two samples if that is wider. In f64, in Pillow's order of operations.
    fn new(source: usize, target: usize, crop: usize) -> Self {
        let margin = target - crop;
        // int(round(margin / 2)), half to even
        let offset = margin / 2 + (margin % 2) * (margin / 2 % 2);
        let scale = source as f64 / target as f64;
        let support = scale.max(1.0);
        let stride = support.ceil() as usize * 2 + 1;
        let mut axis = Axis { spans: Vec::with_capacity(crop), weights: vec![0; crop * stride], stride };
        let mut triangle = Vec::with_capacity(stride);
        for (position, weights) in (offset..).zip(axis.weights.chunks_exact_mut(stride)) {
            let center = (position as f64 + 0.5) * scale;
            // A cast truncates, and a negative start becomes 0.
            let start = (center - support + 0.5) as usize;
            let end = ((center + support + 0.5) as usize).min(source);
            triangle.clear();
            triangle.extend((0..end - start).map(|i| {
                let distance = ((i + start) as f64 - center + 0.5) * (1.0 / support);
                (1.0 - distance.abs()).max(0.0)
            }));
            let total: f64 = triangle.iter().sum();
            for (weight, value) in weights.iter_mut().zip(&triangle) {
                *weight = (0.5 + value / total * f64::from(1 << PRECISION)) as i32;
            }
            axis.spans.push(start..end);
        }
        axis
    }

    fn taps(&self) -> impl Iterator<Item = (Range<usize>, &[i32])> {
        let weights = self.weights.chunks_exact(self.stride);
        self.spans.iter().cloned().zip(weights).map(|(span, weights)| {
            let len = span.len();
            (span, &weights[..len])
        })
    }
}
