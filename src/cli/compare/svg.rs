//! A comparison's timelines as a picture: a lane a tower, layers as boxes, joins hatched, an arrow from where a half was ready
//! to where the other tower has it. All layouts of a batch size share one scale.

use svg::Document;
use svg::node::element::{Group, Line, Marker, Path, Pattern, Rectangle, Style, Text, Title};

use super::report::{Measurement, Report};
use super::table::label;
use super::towers::{Tower, TowerSpan, TowerWork};

/// Sizes are in units of the picture, pixels unless it is scaled.
const WIDTH: f64 = 960.0;
const MARGIN: f64 = 16.0;
const LANE: f64 = 40.0;
/// Between lanes that exchange halves: room for arrows.
const BETWEEN: f64 = 30.0;
const LINE: f64 = 18.0;
/// A character's width in a box, about.
const CHARACTER: f64 = 6.6;

const STYLE: &str = "
    text { font: 13px system-ui, sans-serif; fill: #1c2430; }
    svg { background: #ffffff; }
    .background { fill: #ffffff; }
    .heading { font-size: 16px; font-weight: 600; }
    .layout { font-weight: 600; }
    .small { font-size: 11px; fill: #566070; }
    .inside { font-size: 11px; fill: #ffffff; text-anchor: middle; }
    .lane { fill: #eef1f5; }
    .grid { stroke: #c9d0da; stroke-width: 1; }
    .box { stroke: #ffffff; stroke-width: 0.5; }
    .preprocessing { fill: #667080; }
    .convolution { fill: #2b67b1; }
    .pool { fill: #1f7a59; }
    .connected { fill: #a5561f; }
    .hatch { stroke: #8a94a3; stroke-width: 2; }
    .arrow { stroke: #1c2430; stroke-width: 1.2; }
    .head { fill: #1c2430; }
    @media (prefers-color-scheme: dark) {
        text { fill: #e4e8ee; }
        svg { background: #14181e; }
        .background { fill: #14181e; }
        .small { fill: #a3adba; }
        .lane { fill: #222831; }
        .grid { stroke: #3a434f; }
        .box { stroke: #14181e; }
        .hatch { stroke: #77828f; }
        .arrow { stroke: #e4e8ee; }
        .head { fill: #e4e8ee; }
    }
";

/// What a box is of, as its class and in the legend.
const KINDS: [(&str, &str); 5] = [
    ("preprocessing", "preprocessing"),
    ("convolution", "convolution"),
    ("pool", "pool, LRN"),
    ("connected", "fully connected"),
    ("join", "wait at a join"),
];

/// Draws the measurements of one batch size, of which there is at least one.
pub fn draw(report: &Report, batch: &[Measurement]) -> String {
    let device = &report.layouts[0].device;
    let heading = format!("{}, batch {}", report.model, batch[0].batch_size);
    let longest = batch.iter().map(|m| m.timeline.total_ms).fold(f64::MIN_POSITIVE, f64::max);
    let x = |ms: f64| MARGIN + ms / longest * (WIDTH - 3.0 * MARGIN);
    let mut picture = Group::new()
        .add(text(&heading, MARGIN, 28.0, "heading"))
        .add(text(device, MARGIN, 28.0 + LINE, "small"))
        .add(legend(28.0 + 2.0 * LINE));
    let top = 28.0 + 4.5 * LINE;
    let mut y = top;
    let mut lanes = Group::new();
    for m in batch {
        y += LINE;
        let overlap = m.timeline.overlap.map_or(String::new(), |overlap| format!(", overlap {:.0} %", 100.0 * overlap));
        let title = format!("{}: {:.3} ms{overlap}", m.layout.name(), m.timeline.total_ms);
        lanes = lanes.add(text(&title, MARGIN, y, "layout"));
        let towers = &m.timeline.towers;
        let first = y + LINE + 6.0;
        let lane = |index: usize| first + index as f64 * (LANE + BETWEEN);
        for (index, tower) in towers.iter().enumerate() {
            // The last name stands below, so that arrows between two lanes cross none.
            let below = index > 0 && index + 1 == towers.len();
            let place = if below { lane(index) + LANE + 13.0 } else { lane(index) - 5.0 };
            lanes = lanes.add(text(&tower.place, MARGIN, place, "small")).add(boxes(tower, lane(index), longest, &x));
        }
        for (to, tower) in towers.iter().enumerate() {
            for (from, other) in towers.iter().enumerate().filter(|(from, _)| *from != to) {
                lanes = lanes.add(arrows(tower, other, [lane(to), lane(from)], &x));
            }
        }
        y = lane(towers.len() - 1) + LANE + LINE;
        if towers.len() > 1 {
            y += LINE; // for the name
        }
    }
    picture = picture.add(grid(longest, top, y, &x)).add(lanes);
    let height = y + 2.0 * LINE;
    let hatch = Pattern::new()
        .set("id", "hatch")
        .set("width", 6)
        .set("height", 6)
        .set("patternUnits", "userSpaceOnUse")
        .set("patternTransform", "rotate(45)")
        .add(Line::new().set("class", "hatch").set("y2", 6));
    let head = Marker::new()
        .set("id", "head")
        .set("viewBox", "0 0 6 6")
        .set("refX", 6)
        .set("refY", 3)
        .set("markerWidth", 6)
        .set("markerHeight", 6)
        .set("orient", "auto")
        .add(Path::new().set("class", "head").set("d", "M0 0L6 3L0 6z"));
    let document = Document::new()
        .set("width", WIDTH)
        .set("height", height)
        .set("viewBox", (0.0, 0.0, WIDTH, height))
        .set("role", "img")
        .add(Title::new(heading))
        .add(Style::new(STYLE))
        .add(hatch)
        .add(head)
        .add(Rectangle::new().set("class", "background").set("width", WIDTH).set("height", height))
        .add(picture);
    document.to_string() + "\n"
}

/// `content` at a place; what XML has no way to write is left out, the rest is escaped where it is written.
fn text(content: &str, x: f64, y: f64, class: &str) -> Text {
    Text::new(printable(content)).set("x", x).set("y", round(y)).set("class", class)
}

fn printable(content: &str) -> String {
    content.chars().filter(|c| !c.is_control()).collect()
}

/// To a hundredth of a pixel: more digits only make the file larger.
fn round(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}

/// In two lines, which a telephone shows whole.
fn legend(y: f64) -> Group {
    let mut legend = Group::new();
    for (index, (class, name)) in KINDS.iter().enumerate() {
        let (x, y) = (MARGIN + 110.0 * (index % 3) as f64, y + LINE * (index / 3) as f64);
        let square = filled(class).set("x", x).set("y", y - 10.0).set("width", 11).set("height", 11);
        legend = legend.add(square).add(text(name, x + 16.0, y, "small"));
    }
    legend
}

fn filled(class: &str) -> Rectangle {
    match class {
        "join" => Rectangle::new().set("fill", "url(#hatch)"),
        _ => Rectangle::new().set("class", format!("box {class}")),
    }
}

/// What a span is of, by its first layer.
fn kind(work: &TowerWork) -> &'static str {
    let TowerWork::Layers { layers } = work else { return "join" };
    match layers.first() {
        Some(&"input") => "preprocessing",
        Some(name) if name.starts_with("conv") => "convolution",
        Some(name) if name.starts_with("fc") => "connected",
        _ => "pool",
    }
}

fn boxes(tower: &Tower, y: f64, longest: f64, x: &dyn Fn(f64) -> f64) -> Group {
    let whole = Rectangle::new().set("class", "lane").set("x", MARGIN).set("y", y).set("height", LANE);
    let mut boxes = Group::new().add(whole.set("width", round(x(longest) - MARGIN)));
    for span in &tower.spans {
        let (left, width) = (x(span.begin_ms), x(span.end_ms) - x(span.begin_ms));
        let name = label(&span.work);
        let bytes = match span.work {
            TowerWork::Join { bytes, .. } => format!(", {bytes} bytes"),
            TowerWork::Layers { .. } => String::new(),
        };
        let shown = filled(kind(&span.work))
            .set("x", round(left))
            .set("y", y)
            .set("width", round(width))
            .set("height", LANE)
            .add(Title::new(printable(&format!("{name}: {:.3} ms{bytes}", span.ms()))));
        boxes = boxes.add(shown);
        // The first name tells enough, along the box or across.
        if let TowerWork::Layers { layers } = &span.work
            && let Some(name) = layers.first()
        {
            let (middle, length) = (left + width / 2.0, name.len() as f64 * CHARACTER);
            if length + 4.0 <= width {
                boxes = boxes.add(text(name, round(middle), y + LANE / 2.0 + 4.0, "inside"));
            } else if length <= LANE && width >= 12.0 {
                let (middle, across) = (round(middle + 4.0), y + LANE / 2.0);
                let turned = text(name, middle, across, "inside");
                boxes = boxes.add(turned.set("transform", format!("rotate(-90 {middle} {})", round(across))));
            }
        }
    }
    boxes
}

/// From where `other` had its half of what a layer takes, to where `tower` has got it; `y` of both lanes.
fn arrows(tower: &Tower, other: &Tower, [to, from]: [f64; 2], x: &dyn Fn(f64) -> f64) -> Group {
    let mut arrows = Group::new();
    let joins = |tower: &Tower| -> Vec<(&'static str, TowerSpan)> {
        let join = |span: &TowerSpan| match span.work {
            TowerWork::Join { layer, .. } => Some((layer, span.clone())),
            TowerWork::Layers { .. } => None,
        };
        tower.spans.iter().filter_map(join).collect()
    };
    let others = joins(other);
    for (layer, join) in joins(tower) {
        // Where the other waits for nothing there, it was ready with the last layer that it had computed by then.
        let computed = other.spans.iter().filter(|span| span.end_ms <= join.end_ms).map(|span| span.end_ms).next_back();
        let ready = others.iter().find(|(name, _)| *name == layer).map(|(_, join)| join.begin_ms).or(computed);
        let [start, end] = if to < from { [from, to + LANE] } else { [from + LANE, to] };
        let arrow = Line::new()
            .set("class", "arrow")
            .set("marker-end", "url(#head)")
            .set("x1", round(x(ready.unwrap_or(join.end_ms).min(join.end_ms))))
            .set("y1", start)
            .set("x2", round(x(join.end_ms)))
            .set("y2", end)
            .add(Title::new(printable(&format!("the other half for {layer}"))));
        arrows = arrows.add(arrow);
    }
    arrows
}

/// Vertical lines at round times, with the time below.
fn grid(longest: f64, top: f64, bottom: f64, x: &dyn Fn(f64) -> f64) -> Group {
    let power = 10f64.powf((longest / 8.0).log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].into_iter().map(|n| n * power).find(|step| longest / step <= 8.0).unwrap_or(power);
    let decimals = (-step.log10().floor()).clamp(0.0, 9.0) as usize;
    let mut grid = Group::new();
    for tick in 0..=(longest / step) as usize {
        let (at, time) = (round(x(tick as f64 * step)), tick as f64 * step);
        let line = Line::new().set("class", "grid").set("x1", at).set("x2", at).set("y1", top).set("y2", round(bottom));
        let unit = if tick == 0 { " ms" } else { "" };
        let name = text(&format!("{time:.decimals$}{unit}"), at, bottom + 14.0, "small");
        grid = grid.add(line).add(if tick == 0 { name } else { name.set("text-anchor", "middle") });
    }
    grid
}

#[cfg(test)]
mod tests {
    use svg::parser::Event;

    use super::super::report::tests::report;
    use super::*;

    /// Every tag is closed, in order; gives the elements' names with their attributes, and all text.
    fn parse(picture: &str) -> (Vec<(String, svg::node::Attributes)>, String) {
        let (mut open, mut elements, mut texts) = (vec![], vec![], String::new());
        for event in svg::read(picture).unwrap() {
            match event {
                Event::Tag(name, svg::node::element::tag::Type::End, _) => {
                    assert_eq!(open.pop().as_deref(), Some(name));
                }
                Event::Tag(name, kind, attributes) => {
                    if kind == svg::node::element::tag::Type::Start {
                        open.push(name.to_string());
                    }
                    elements.push((name.to_string(), attributes));
                }
                Event::Text(text) => texts += text,
                Event::Error(error) => panic!("{error}"),
                _ => {}
            }
        }
        assert!(open.is_empty(), "{open:?} stay open");
        (elements, texts)
    }

    #[test]
    fn lanes_boxes_and_arrows_are_where_they_belong() {
        let report = report();
        let (elements, texts) = parse(&draw(&report, report.batches().next().unwrap()));
        let number = |attributes: &svg::node::Attributes, name: &str| attributes[name].parse::<f64>().unwrap();
        let of = |class: &str| -> Vec<_> {
            let matches = |attributes: &svg::node::Attributes| attributes.get("class").is_some_and(|c| **c == *class);
            elements.iter().filter(|(_, attributes)| matches(attributes)).map(|(_, attributes)| attributes).collect()
        };
        let lanes = of("lane");
        assert_eq!(lanes.len(), 3, "one of the single network, two towers");
        // conv3 of the second tower begins at 0.350 ms of 1.000 and takes 0.200.
        let scale = number(lanes[0], "width");
        let convolutions = of("box convolution");
        let conv3 = convolutions.iter().rfind(|shown| number(shown, "height") == LANE).unwrap();
        assert!(
            (number(conv3, "x") - MARGIN - 0.35 * scale).abs() < 0.1
                && (number(conv3, "width") - 0.2 * scale).abs() < 0.1
        );
        assert_eq!(number(conv3, "y"), number(lanes[2], "y"));
        // The first tower had its half at 0.300, the second at 0.340; both go on at 0.350.
        let arrows = of("arrow");
        assert_eq!(arrows.len(), 2);
        let edges = |lane: usize| [number(lanes[lane], "y"), number(lanes[lane], "y") + LANE];
        let first = (0.34, edges(2)[0], edges(1)[1]);
        let second = (0.30, edges(1)[1], edges(2)[0]);
        for (arrow, (ready, from, to)) in arrows.iter().zip([first, second]) {
            assert!((number(arrow, "x1") - MARGIN - ready * scale).abs() < 0.1, "{arrow:?}");
            assert!((number(arrow, "x2") - MARGIN - 0.35 * scale).abs() < 0.1, "{arrow:?}");
            assert_eq!((number(arrow, "y1"), number(arrow, "y2")), (from, to));
        }
        for part in
            ["paper, batch 1", "two-stream: 0.600 ms, overlap 93 %", "conv1", "0.2", "1.0", "a &lt;fake&gt; &amp;"]
        {
            assert!(texts.contains(part), "'{part}' is not in {texts}");
        }
        assert!(!texts.contains("<fake>"));
    }

    #[test]
    fn scales_fit_any_time() {
        for longest in [1e-4, 0.0123, 1.0, 7.9, 8.1, 99.0, 12345.0] {
            let drawn = grid(longest, 0.0, 100.0, &|ms| ms / longest).to_string();
            let ticks = drawn.matches("<line").count();
            assert!((4..=9).contains(&ticks), "{ticks} for {longest}: {drawn}");
        }
    }
}
