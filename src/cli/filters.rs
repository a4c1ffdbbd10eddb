//! `alexnet filters`: the first layer's filters as a picture, as the paper's figure 3 shows them.
//!
//! ```text
//! w = weight / (divisor * std)           of each channel: what a step of a pixel's value weighs
//! level = round(127.5 + 127.5 * w / m)   m the largest |w| of the filter: zero is mid-grey, each filter has its own scale
//! ```
//!
//! Channels are put in the order red, green, blue. A mean that is subtracted moves no weight.

use std::fmt::Write;
use std::io::Cursor;
use std::path::PathBuf;

use alexnet::net::{Network, Op, Preprocess, Variant};
use alexnet::{Error, Result, file};
use image::{ImageFormat, Rgb, RgbImage, imageops};

use super::args::{self, ModelArgs};
use super::{Outcome, note};

/// Filters in a row of the grid, at most.
const COLUMNS: usize = 16;
/// Filters that are drawn, at most: a picture of more is too large to look at.
const MOST: usize = 4096;
/// Pixels of a PNG to one of a filter.
const SCALE: u32 = 8;
/// Pixels of a filter between two filters, and between the towers.
const GAP: u32 = 1;
const TOWER_GAP: u32 = 4;

#[derive(clap::Args)]
pub struct Args {
    /// Variant; the checkpoint's metadata or its tensors tell where it is left out.
    #[arg(short, long, value_name = "VARIANT", value_parser = args::variant_parser())]
    model: Option<&'static Variant>,
    /// Weights: a .safetensors or .pth file, IMAGENET1K_V1 or seed:N [default: the built-in demo].
    #[arg(long, alias = "weights", value_name = "FILE")]
    checkpoint: Option<PathBuf>,
    /// Show the two halves of the filters apart, as for variants with towers.
    #[arg(long)]
    towers: bool,
    /// The picture to write.
    #[arg(short, long, value_name = "FILE.png|FILE.svg", value_parser = picture_file)]
    output: PathBuf,
}

/// A file named .png or .svg.
fn picture_file(text: &str) -> std::result::Result<PathBuf, String> {
    let path = PathBuf::from(text);
    match path.extension() {
        Some(extension) if extension == "png" || extension == "svg" => Ok(path),
        _ => Err("a picture's name ends in .png or .svg".into()),
    }
}

pub fn run(args: &Args) -> Result<Outcome> {
    let checkpoint = ModelArgs { model: args.model, checkpoint: args.checkpoint.clone(), input_size: None }.open()?;
    let variant = checkpoint.choose_variant(args.model)?;
    let network = checkpoint.network(variant, variant.input_size)?;
    checkpoint.reject_non_finite()?;
    let parameter = network.parameters().next().expect("every variant begins with a convolution");
    let shape: [usize; 4] =
        parameter.weight_shape.clone().try_into().expect("a convolution's weights have four extents");
    let count = shape[0];
    if count > MOST {
        return Err(Error::Usage(format!("{} has {count} filters; up to {MOST} are drawn", parameter.layer)));
    }
    let towers = args.towers || has_towers(&network);
    if towers && !count.is_multiple_of(2) {
        return Err(Error::Usage(format!("{} has {count} filters, which two towers cannot share", parameter.layer)));
    }
    let weights = checkpoint.tensors[&parameter.weight()].to_f32()?;
    let patches = patches(&weights, shape, &variant.preprocess);
    let grid = grid(&patches, if towers { 2 } else { 1 });
    let bytes = match args.output.extension() {
        Some(extension) if extension == "svg" => svg(&grid).into_bytes(),
        _ => png(&grid),
    };
    file::write(&args.output, &bytes)?;
    note(&format!("wrote {}: {count} filters of {}, {}", args.output.display(), parameter.layer, variant.name));
    Ok(Outcome::Done)
}

/// Whether the variant's convolutions have groups, which were a GPU each.
fn has_towers(network: &Network) -> bool {
    network.variant.layers.iter().any(|layer| matches!(layer.op, Op::Conv(conv) if conv.groups == 2))
}

/// Filters (K, C, R, S), C three, as pictures.
fn patches(weights: &[f32], [_, channels, height, width]: [usize; 4], preprocess: &Preprocess) -> Vec<RgbImage> {
    let size = height * width;
    let patch = |filter: &[f32]| {
        let weigh = |channel: usize, at: usize| {
            f64::from(filter[channel * size + at]) / f64::from(preprocess.divisor * preprocess.std[channel])
        };
        let all = (0..channels).flat_map(|channel| (0..size).map(move |at| weigh(channel, at).abs()));
        let most = all.fold(0.0, f64::max);
        let level = |value: f64| if most > 0.0 { (127.5 + 127.5 * value / most).round() as u8 } else { 128 };
        RgbImage::from_fn(width as u32, height as u32, |x, y| {
            let mut rgb = [0; 3];
            for channel in 0..channels {
                rgb[preprocess.source(channel)] = level(weigh(channel, y as usize * width + x as usize));
            }
            Rgb(rgb)
        })
    };
    weights.chunks_exact(channels * size).map(patch).collect()
}

/// `patches` on white in rows, those of one of the `towers` after those of the other; a pixel is one of a filter.
fn grid(patches: &[RgbImage], towers: usize) -> RgbImage {
    let (width, height) = patches[0].dimensions();
    let tower = patches.len() / towers;
    let columns = match patches.len() {
        count if count >= 3 * COLUMNS => COLUMNS,
        _ => tower.min(COLUMNS / 2),
    };
    let rows = tower.div_ceil(columns);
    let [columns_, rows_, towers_] = [columns, rows, towers].map(|count| count as u32);
    let tower_height = rows_ * (height + GAP) - GAP;
    let size = (columns_ * (width + GAP) + GAP, towers_ * tower_height + (towers_ - 1) * TOWER_GAP + 2 * GAP);
    let mut grid = RgbImage::from_pixel(size.0, size.1, Rgb([255; 3]));
    for (index, patch) in patches.iter().enumerate() {
        let [which, row, column] = [index / tower, index % tower / columns, index % tower % columns].map(|n| n as u32);
        let x = GAP + column * (width + GAP);
        let y = GAP + which * (tower_height + TOWER_GAP) + row * (height + GAP);
        imageops::replace(&mut grid, patch, x.into(), y.into());
    }
    grid
}

/// [`SCALE`] times as large, without smoothing.
fn png(grid: &RgbImage) -> Vec<u8> {
    let large = imageops::resize(grid, grid.width() * SCALE, grid.height() * SCALE, imageops::FilterType::Nearest);
    let mut png = Cursor::new(vec![]);
    large.write_to(&mut png, ImageFormat::Png).expect("memory takes it");
    png.into_inner()
}

/// A square a pixel; white ones are the background.
fn svg(grid: &RgbImage) -> String {
    let (width, height) = grid.dimensions();
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{}\" height=\"{}\" viewBox=\"0 0 {width} {height}\" \
         shape-rendering=\"crispEdges\">\n<path fill=\"#ffffff\" d=\"M0 0h{width}v{height}h-{width}z\"/>\n",
        width * SCALE,
        height * SCALE
    );
    for (x, y, Rgb([r, g, b])) in grid.enumerate_pixels().filter(|(.., rgb)| rgb.0 != [255; 3]) {
        let written = writeln!(svg, "<path fill=\"#{r:02x}{g:02x}{b:02x}\" d=\"M{x} {y}h1v1h-1z\"/>");
        written.expect("writing to a String");
    }
    svg + "</svg>\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    fn preprocess(variant: &str) -> &'static Preprocess {
        &Variant::by_name(variant).unwrap().preprocess
    }

    /// Two filters of 1 x 2: the first weighs its first channel alone, the second nothing.
    const WEIGHTS: [f32; 12] = [1.0, -0.5, 0.25, 0.0, -1.0, 0.5, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0];
    const SHAPE: [usize; 4] = [2, 3, 1, 2];

    #[test]
    fn levels_are_the_weights() {
        // (1, 0.25, -1) and (-0.5, 0, 0.5), by channel.
        let rgb = patches(&WEIGHTS, SHAPE, preprocess("paper"));
        assert_eq!((rgb[0].get_pixel(0, 0).0, rgb[0].get_pixel(1, 0).0), ([255, 159, 0], [64, 128, 191]));
        assert_eq!(rgb[1].as_raw(), &[128; 6], "no weights are mid-grey");
        let bgr = patches(&WEIGHTS, SHAPE, preprocess("caffe"));
        assert_eq!((bgr[0].get_pixel(0, 0).0, bgr[0].get_pixel(1, 0).0), ([0, 159, 255], [191, 128, 64]));
    }

    /// Weights act on normalised pixels: red's deviation is the largest, so that its weights count least.
    #[test]
    fn deviations_scale_the_channels() {
        let equal = patches(&[1.0; 3], [1, 3, 1, 1], preprocess("torchvision"));
        // 0.224 / 0.229 and 0.224 / 0.225 of the most.
        assert_eq!(equal[0].get_pixel(0, 0).0, [252, 255, 254]);
    }

    #[test]
    fn towers_stand_apart() {
        let filter = |level: u8| RgbImage::from_pixel(2, 2, Rgb([level; 3]));
        let filters: Vec<RgbImage> = (0..96).map(filter).collect();
        let (one, two) = (grid(&filters, 1), grid(&filters, 2));
        assert_eq!((one.dimensions(), two.dimensions()), ((49, 19), (49, 22)));
        let first = |grid: &RgbImage, y: u32| grid.get_pixel(1, y).0[0];
        assert_eq!([1, 4, 7, 10].map(|y| first(&one, y)), [0, 16, 32, 48]);
        assert_eq!([1, 4, 7, 9, 13].map(|y| first(&two, y)), [0, 16, 32, 255, 48]);
        assert_eq!(two.get_pixel(46, 20).0[0], 95);
    }

    #[test]
    fn files_hold_the_pixels() {
        let grid = grid(&patches(&WEIGHTS, SHAPE, preprocess("paper")), 1);
        let png = image::load_from_memory(&png(&grid)).unwrap().to_rgb8();
        assert_eq!(png.dimensions(), (grid.width() * SCALE, grid.height() * SCALE));
        for (x, y, pixel) in png.enumerate_pixels() {
            assert_eq!(pixel, grid.get_pixel(x / SCALE, y / SCALE));
        }
        let svg = svg(&grid);
        let document = roxmltree::Document::parse(&svg).unwrap();
        let paths: Vec<_> = document.descendants().filter(|node| node.has_tag_name("path")).collect();
        assert_eq!(paths.len(), 1 + 4, "background and four pixels");
        assert_eq!((paths[1].attribute("fill"), paths[1].attribute("d")), (Some("#ff9f00"), Some("M1 1h1v1h-1z")));
    }
}
