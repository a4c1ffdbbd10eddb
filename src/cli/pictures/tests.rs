//! Pictures of made-up records: that they are whole, that nothing covers a text, and that lengths are what they stand for.

use roxmltree::{Document, Node};

use super::canvas::{Edges, width};
use super::*;
use crate::cli::samples;

fn pictures() -> Vec<Picture> {
    of(&samples::records().iter().collect::<Vec<_>>())
}

fn named(name: &str) -> Picture {
    pictures().into_iter().find(|picture| picture.name == name).unwrap_or_else(|| panic!("there is no {name}"))
}

fn number(node: &Node, name: &str) -> f64 {
    node.attribute(name).unwrap_or_else(|| panic!("{node:?} has no {name}")).parse().unwrap()
}

/// Where a text that is not turned stands, letters only.
fn edges(text: &Node) -> Edges {
    let content = text.text().unwrap().trim();
    let size = number(text, "font-size");
    let (x, y, long) = (number(text, "x") as i32, number(text, "y") as i32, width(content, size));
    let left = match text.attribute("text-anchor").unwrap() {
        "start" => x,
        "middle" => x - long / 2,
        _ => x - long,
    };
    let top = match text.attribute("dy").unwrap() {
        "0.76em" => y,
        "0.5ex" => y - (size / 2.0) as i32,
        _ => y - size as i32,
    };
    Edges::new(left, top, long, size as i32)
}

#[test]
fn every_record_is_drawn_under_a_name_of_its_own() {
    let names: Vec<String> = pictures().into_iter().map(|picture| picture.name).collect();
    let expected = "throughput-float32 throughput-float16 latency roofline shares roofline-2 shares-2 layouts timeline-b1 \
                    timeline-b8 timeline-b256 kernels-float16-b256";
    assert_eq!(names, expected.split_whitespace().collect::<Vec<_>>());
    assert_eq!(file_name("a/b \u{e9}.1"), "a-b--.1");
}

#[test]
fn texts_are_whole_and_cover_nothing() {
    for picture in pictures() {
        let svg = picture.svg(&theme::LIGHT);
        let document = Document::parse(&svg).unwrap_or_else(|error| panic!("{}: {error}", picture.name));
        let (width, height) = picture.size();
        let whole = Edges::new(0, 0, width as i32, height as i32);
        let texts = document.descendants().filter(|node| node.has_tag_name("text") && !node.has_attribute("transform"));
        let texts: Vec<(Edges, &str)> = texts.map(|node| (edges(&node), node.text().unwrap().trim())).collect();
        assert!(texts.len() > 10, "{}", picture.name);
        for (index, (edges, text)) in texts.iter().enumerate() {
            assert!(whole.holds(edges), "{}: '{text}' is cut at {edges:?}", picture.name);
            for (other, covered) in &texts[index + 1..] {
                assert!(!edges.meets(other), "{}: '{text}' covers '{covered}'", picture.name);
            }
        }
        let device = texts.iter().any(|(_, text)| [samples::DEVICE, "A made-up GPU"].contains(text));
        assert!(device, "{} does not tell the device", picture.name);
        let small = document.descendants().filter_map(|node| node.attribute("font-size")?.parse::<f64>().ok());
        assert!(small.fold(f64::MAX, f64::min) > 11.99, "{}", picture.name);
        // What differs between the themes are colours.
        let dark = picture.svg(&theme::DARK);
        assert!(Document::parse(&dark).unwrap().descendants().count() == document.descendants().count() && dark != svg);
    }
}

#[test]
fn points_stand_where_they_belong() {
    let svg = named("throughput-float32").svg(&theme::LIGHT);
    let document = Document::parse(&svg).unwrap();
    let circle = |node: &Node| node.has_tag_name("circle") && node.attribute("r") == Some("5");
    let circles = document.descendants().filter(circle).map(|node| (number(&node, "cx"), number(&node, "cy")));
    // Three in the legend; then batch 1, 8, 64 and 256 in three modes, of which compute is the second.
    let points: Vec<(f64, f64)> = circles.skip(3).collect();
    assert_eq!(points.len(), 12);
    let compute = &points[4..8];
    let apart = |a: usize, b: usize| compute[b].0 - compute[a].0;
    assert!((apart(0, 1) - apart(1, 2)).abs() <= 1.0 && (apart(0, 1) * 2.0 / 3.0 - apart(2, 3)).abs() <= 1.0);
    // 52,340 * n / (n + 24) on a logarithmic axis.
    let rise = |n: f64| (n / (n + 24.0)).ln();
    let scale = (compute[0].1 - compute[3].1) / (rise(256.0) - rise(1.0));
    assert!((compute[0].1 - compute[1].1 - scale * (rise(8.0) - rise(1.0))).abs() <= 1.0, "{compute:?}");
}

#[test]
fn bars_are_as_long_as_times() {
    let svg = named("layouts").svg(&theme::LIGHT);
    let document = Document::parse(&svg).unwrap();
    let solid = |node: &Node| node.attribute("fill") == Some("#0072B2") && node.attribute("height") == Some("16");
    let lengths: Vec<f64> = document.descendants().filter(solid).map(|node| number(&node, "width")).collect();
    let compare = samples::compare();
    let mut times = vec![];
    for batch in compare.batches() {
        let towers = batch.iter().flat_map(|result| &result.timeline.towers);
        times.extend(towers.map(|tower| tower.computing_ms / batch[0].timeline.total_ms));
    }
    assert_eq!(lengths.len(), times.len());
    let scale = lengths[0] / times[0];
    for (length, time) in lengths.iter().zip(times) {
        assert!((length - scale * time).abs() <= 2.0, "{length} {time}");
    }
}

#[test]
fn boxes_of_a_timeline_are_where_they_belong() {
    let svg = named("timeline-b8").svg(&theme::LIGHT);
    let document = Document::parse(&svg).unwrap();
    let fill = |color: &'static str| {
        let of = move |node: &Node| node.attribute("fill") == Some(color) && node.attribute("height") == Some("52");
        document.descendants().filter(of).map(|node| (number(&node, "x"), number(&node, "width"))).collect::<Vec<_>>()
    };
    let lanes = fill("#EEF1F5");
    assert_eq!(lanes.len(), 3, "the single network's and two towers'");
    // conv1 of the single network begins at 5 % of the longest run and takes 17 % of it.
    let (begin, length) = lanes[0];
    let (x, width) = fill("#0072B2")[0];
    assert!((x - begin - 0.05 * length).abs() <= 1.0 && (width - 0.17 * length).abs() <= 1.0, "{x} {width}");
    // Seven joins, each with an arrow to it.
    let heads = document.descendants().filter(|node| node.has_tag_name("polygon")).count();
    assert_eq!((heads, fill("#FFFFFF").len()), (7, 7));
}

#[test]
fn files_are_written_in_the_light_theme() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path().join("new").join("pictures");
    check(&folder).unwrap();
    assert_eq!(fs::read_dir(&folder).unwrap().count(), 0, "a check leaves nothing");
    write(&folder, &[Record::Kernels(samples::kernels())]).unwrap();
    let picture = named("kernels-float16-b256");
    let svg = fs::read_to_string(folder.join("kernels-float16-b256.svg")).unwrap();
    assert_eq!(svg, picture.svg(&theme::LIGHT));
    let png = fs::read(folder.join("kernels-float16-b256.png")).unwrap();
    let image = image::load_from_memory(&png).unwrap().to_rgb8();
    let (width, height) = picture.size();
    assert_eq!(image.dimensions(), (2 * width, 2 * height));
    // The corners are background, a bar has its colour, and text has left marks.
    let (right, bottom) = (2 * width - 1, 2 * height - 1);
    for (x, y) in [(0, 0), (right, 0), (0, bottom), (right, bottom)] {
        assert_eq!(image.get_pixel(x, y).0, [255; 3]);
    }
    let share = |color: [u8; 3]| image.pixels().filter(|pixel| pixel.0 == color).count() * 1000 / image.pixels().len();
    let (bars, background) = (share([0x00, 0x72, 0xb2]), share([255; 3]));
    assert!((50..250).contains(&bars) && (600..950).contains(&background), "{bars} {background}");
    assert_eq!(fs::read_dir(&folder).unwrap().count(), 2);
}

#[test]
fn folders_that_cannot_be_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    fs::write(&file, "kept").unwrap();
    let refusal = check(&file).unwrap_err();
    assert!(refusal.exit_code() == 6 && refusal.to_string().contains(file.to_str().unwrap()), "{refusal}");
    assert_eq!(fs::read_to_string(&file).unwrap(), "kept");
}

/// Names of any length, from any program, and figures of any size.
#[test]
fn extreme_records_are_drawn_too() {
    let mut bench = samples::bench(&"program ".repeat(40), Some("\u{0}<&>"), 1e-9);
    bench.results.truncate(1);
    bench.results[0].samples_per_sec = 0.0;
    let mut profile = samples::profile(false);
    profile.machine.device = "x".repeat(500);
    profile.tracks[0].steps.truncate(1); // without arithmetic
    let mut compare = samples::compare();
    compare.results.clear();
    let mut kernels = samples::kernels();
    kernels.cases.clear();
    let records = [Record::Bench(bench), Record::Profile(profile), Record::Compare(compare), Record::Kernels(kernels)];
    for picture in of(&records.iter().collect::<Vec<_>>()) {
        let svg = picture.svg(&theme::LIGHT);
        Document::parse(&svg).unwrap_or_else(|error| panic!("{}: {error}", picture.name));
        if picture.name == "roofline-2" {
            picture.png(&theme::DARK); // points far outside of the chart
        }
    }
}

#[test]
fn one_gpu_is_one_in_any_words() {
    let mut peer = samples::bench("pytorch", None, 0.5);
    peer.machine.device = "cuda:0, in other words".into();
    let records = [samples::bench("alexnet", None, 1.0), peer.clone()].map(Record::Bench);
    let drawn = |records: &[Record]| of(&records.iter().collect::<Vec<_>>())[0].svg(&theme::LIGHT);
    let svg = drawn(&records);
    assert!(svg.matches("A made-up GPU").count() == 1 && !svg.contains("other words"));
    peer.machine.gpus.clear();
    let [ours, _] = records;
    assert!(drawn(&[ours, Record::Bench(peer)]).contains("other words"), "what differs is told");
}
