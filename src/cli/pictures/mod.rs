//! Records as pictures, SVG and PNG.
//!
//! [`of`] makes them from records, a file a kind of record; each is one of a few charts, drawn on a [`canvas`] in the colours
//! of a [`theme`].

mod axes;
mod bars;
mod bench;
mod canvas;
mod compare;
mod kernels;
mod labels;
mod legend;
mod lines;
mod profile;
mod roofline;
mod surface;
pub mod theme;
mod timeline;

use std::fs;
use std::path::Path;

use alexnet::record::Record;
use alexnet::{Error, Result, file};
use image::RgbImage;
use image::codecs::png::{CompressionType, FilterType, PngEncoder};
use image::imageops;
use plotters::prelude::{BitMapBackend, Color, SVGBackend};

use canvas::{Anchor, Canvas, IN_MEMORY, shorten, wrap};
use surface::{FINE, Surface};
use theme::{BODY, LINE, MARGIN, TITLE, Theme, WIDTH};

/// Pixels of a PNG to one of the picture.
const PNG: u32 = 2;
/// Pixels of the tallest picture that becomes a PNG, which takes some hundred MB while it is drawn.
const TALLEST: u32 = 16_384;

/// A picture of one or more records.
pub struct Picture {
    /// Of its files, without an extension.
    pub name: String,
    pub title: String,
    /// What is measured, and on what.
    pub subtitle: Vec<String>,
    chart: Chart,
}

enum Chart {
    Lines(lines::Lines),
    Bars(bars::Bars),
    Roofline(roofline::Roofline),
    Lanes(timeline::Lanes),
}

/// Every picture of `records`, each by a name of its own; benchmarks are drawn together.
pub fn of(records: &[&Record]) -> Vec<Picture> {
    let mut benches = vec![];
    let mut pictures = vec![];
    for record in records {
        match record {
            Record::Bench(record) => benches.push(record),
            Record::Profile(record) => pictures.extend(profile::pictures(record)),
            Record::Compare(record) => pictures.extend(compare::pictures(record)),
            Record::Kernels(record) => pictures.extend(kernels::pictures(record)),
        }
    }
    let mut pictures: Vec<Picture> = bench::pictures(&benches).into_iter().chain(pictures).collect();
    for index in 1..pictures.len() {
        let taken = |name: &str| pictures[..index].iter().any(|other| other.name == name);
        let name = file_name(&pictures[index].name);
        let numbered = (1..).map(|n| if n == 1 { name.clone() } else { format!("{name}-{n}") });
        pictures[index].name = numbered.into_iter().find(|name| !taken(name)).expect("one of them is free");
    }
    pictures
}

/// `name` as every file system takes it.
fn file_name(name: &str) -> String {
    name.chars().map(|c| if c.is_ascii_alphanumeric() || matches!(c, '-' | '.') { c } else { '-' }).collect()
}

/// Creates `folder` where it is missing and finds out whether files can be written there.
///
/// # Errors
/// [`Error::Output`] with its name.
pub fn check(folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).map_err(Error::output(folder))?;
    file::check(&folder.join("picture.svg"))
}

/// Writes every picture of `records` as NAME.svg and NAME.png.
///
/// # Errors
/// [`Error::Output`] with the file's name, [`Error::Usage`] for more rows than a PNG has room for.
pub fn write(folder: &Path, records: &[Record]) -> Result<()> {
    for picture in of(&records.iter().collect::<Vec<_>>()) {
        let (_, height) = picture.size();
        if height > TALLEST {
            return Err(Error::Usage(format!(
                "the picture '{}' would be {height} pixels high, at most {TALLEST} are drawn; take records with fewer rows",
                picture.name
            )));
        }
        let path = |extension: &str| folder.join(format!("{}.{extension}", picture.name));
        file::write(&path("svg"), picture.svg(&theme::LIGHT).as_bytes())?;
        file::write(&path("png"), &picture.png(&theme::LIGHT))?;
    }
    Ok(())
}

impl Picture {
    /// Lines above the chart.
    fn heading(&self) -> Vec<String> {
        let room = WIDTH - 2 * MARGIN;
        self.subtitle.iter().filter(|text| !text.is_empty()).flat_map(|text| wrap(text, BODY, room)).collect()
    }

    fn size(&self) -> (u32, u32) {
        let chart = match &self.chart {
            Chart::Lines(chart) => chart.height(),
            Chart::Bars(chart) => chart.height(),
            Chart::Roofline(chart) => chart.height(),
            Chart::Lanes(chart) => chart.height(),
        };
        (WIDTH as u32, (self.top() + chart + MARGIN) as u32)
    }

    /// Where the chart begins.
    fn top(&self) -> i32 {
        MARGIN + 28 + LINE * self.heading().len() as i32 + 8
    }

    /// As SVG, complete with its namespace.
    pub fn svg(&self, theme: &'static Theme) -> String {
        let mut svg = String::new();
        self.draw(Surface::Svg(SVGBackend::with_string(&mut svg, self.size())), theme);
        svg
    }

    /// As PNG, [`PNG`] times as large.
    fn png(&self, theme: &'static Theme) -> Vec<u8> {
        let (width, height) = self.size();
        // The backend leaves the last row and column out where it fills an area.
        let (r, g, b) = theme.background.rgb();
        let mut pixels = [r, g, b].repeat((width * FINE * height * FINE) as usize);
        self.draw(Surface::Fine(BitMapBackend::with_buffer(&mut pixels, (width * FINE, height * FINE))), theme);
        let fine = RgbImage::from_raw(width * FINE, height * FINE, pixels).expect("as many pixels as that");
        let image = imageops::thumbnail(&fine, width * PNG, height * PNG);
        let mut png = vec![];
        let encoder = PngEncoder::new_with_quality(&mut png, CompressionType::Default, FilterType::Adaptive);
        image.write_with_encoder(encoder).expect("memory takes it");
        png
    }

    fn draw(&self, surface: Surface, theme: &'static Theme) {
        let canvas = Canvas::new(surface, theme);
        let title = shorten(&self.title, TITLE, WIDTH - 2 * MARGIN);
        canvas.text(&title, (MARGIN, MARGIN + 10), TITLE, theme.text, Anchor::Left);
        for (index, line) in self.heading().iter().enumerate() {
            let y = MARGIN + 28 + LINE * index as i32 + LINE / 2;
            canvas.text(line, (MARGIN, y), BODY, theme.muted, Anchor::Left);
        }
        match &self.chart {
            Chart::Lines(chart) => chart.draw(&canvas, self.top()),
            Chart::Bars(chart) => chart.draw(&canvas, self.top()),
            Chart::Roofline(chart) => chart.draw(&canvas, self.top()),
            Chart::Lanes(chart) => chart.draw(&canvas, self.top()),
        }
        canvas.area.present().expect(IN_MEMORY);
    }
}

#[cfg(test)]
mod tests;
