//! What towers did when: a lane a tower, layers as boxes, joins hatched, an arrow from where a half was ready to where the
//! other tower has it. All layouts of a batch size share one scale.

use alexnet::record::{CompareResult, Tower, TowerSpan, TowerWork};

use super::axes::{decimals, step, ticks};
use super::canvas::{Anchor, Canvas, Edges, shorten, width};
use super::legend::{self, Entry, Fill, Sample};
use super::theme::{BODY, LINE, MARGIN, SMALL, WIDTH};
use crate::cli::words::{grouped, short};

const LANE: i32 = 52;
/// Between lanes that exchange halves: room for arrows.
const BETWEEN: i32 = 34;

/// What a box is of, with its colour in the palette.
const KINDS: [(usize, &str); 4] = [(0, "convolution"), (1, "fully connected"), (2, "pool, LRN"), (5, "preprocessing")];

/// The layouts of one batch size.
pub struct Lanes {
    layouts: Vec<Layout>,
    /// The longest run, in milliseconds.
    longest: f64,
}

struct Layout {
    heading: String,
    towers: Vec<Tower>,
}

impl Lanes {
    pub fn of(batch: &[CompareResult]) -> Self {
        let layout = |result: &CompareResult| {
            let overlap = result.timeline.overlap.map(|overlap| format!(", overlap {:.0} %", 100.0 * overlap));
            Layout {
                heading: format!(
                    "{}: {} ms{}",
                    result.layout,
                    short(result.timeline.total_ms),
                    overlap.unwrap_or_default()
                ),
                towers: result.timeline.towers.clone(),
            }
        };
        let longest = batch.iter().map(|result| result.timeline.total_ms).fold(f64::MIN_POSITIVE, f64::max);
        Lanes { layouts: batch.iter().map(layout).collect(), longest }
    }

    fn legend() -> Vec<Entry> {
        let kinds = KINDS.map(|(color, name)| (Sample::Box(Fill::Solid(color)), name.to_string()));
        let join = (Sample::Box(Fill::Hatched), "wait at a join".to_string());
        kinds.into_iter().chain([join]).collect()
    }

    pub fn height(&self) -> i32 {
        legend::height(&Self::legend()) + self.layouts.iter().map(Layout::height).sum::<i32>() + 2 * LINE
    }

    /// Where a time stands.
    fn x(&self, ms: f64) -> i32 {
        MARGIN + ((ms / self.longest).clamp(0.0, 1.0) * f64::from(WIDTH - 3 * MARGIN)).round() as i32
    }

    pub fn draw(&self, canvas: &Canvas, top: i32) {
        legend::draw(canvas, top, &Self::legend());
        let mut y = top + legend::height(&Self::legend());
        let bottom = y + self.layouts.iter().map(Layout::height).sum::<i32>();
        self.grid(canvas, [y, bottom]);
        for layout in &self.layouts {
            self.layout(canvas, layout, y);
            y += layout.height();
        }
    }

    fn grid(&self, canvas: &Canvas, [top, bottom]: [i32; 2]) {
        let theme = canvas.theme;
        let decimals = decimals(step(self.longest, 8.0));
        for tick in ticks(self.longest, 8.0) {
            let x = self.x(tick);
            canvas.line(&[(x, top), (x, bottom)], theme.grid, 1);
            let (text, anchor) = match tick == 0.0 {
                true => ("0 ms".to_string(), Anchor::Left),
                false => (grouped(tick, decimals), Anchor::Middle),
            };
            canvas.text(&text, (x, bottom + 12), SMALL, theme.muted, anchor);
        }
    }

    fn layout(&self, canvas: &Canvas, layout: &Layout, top: i32) {
        let theme = canvas.theme;
        // The grid stays out of the text.
        let text = |content: &str, y: i32, size: f64, color| {
            let content = shorten(content, size, WIDTH - 2 * MARGIN);
            canvas.fill(Edges::new(MARGIN, y - 9, width(&content, size) + 6, 18), theme.background);
            canvas.text(&content, (MARGIN, y), size, color, Anchor::Left);
        };
        text(&layout.heading, top + LINE / 2 + 2, BODY, theme.text);
        let lane = |index: usize| top + 2 * LINE + 6 + index as i32 * (LANE + BETWEEN);
        for (index, tower) in layout.towers.iter().enumerate() {
            // The last name stands below, so that arrows between two lanes cross none.
            let below = index > 0 && index + 1 == layout.towers.len();
            text(&tower.place, if below { lane(index) + LANE + 12 } else { lane(index) - 10 }, SMALL, theme.muted);
            self.boxes(canvas, tower, lane(index));
        }
        for (to, tower) in layout.towers.iter().enumerate() {
            for (from, other) in layout.towers.iter().enumerate().filter(|(from, _)| *from != to) {
                for [ready, received] in exchanges(tower, other) {
                    let [start, end] =
                        if to < from { [lane(from), lane(to) + LANE] } else { [lane(from) + LANE, lane(to)] };
                    canvas.arrow((self.x(ready), start), (self.x(received), end), theme.text);
                }
            }
        }
    }

    fn boxes(&self, canvas: &Canvas, tower: &Tower, top: i32) {
        let theme = canvas.theme;
        let edges = |begin: f64, end: f64| Edges { left: self.x(begin), top, right: self.x(end), bottom: top + LANE };
        canvas.fill(edges(0.0, self.longest), theme.lane);
        for span in &tower.spans {
            let edges = edges(span.begin_ms, span.end_ms);
            let TowerWork::Layers { layers } = &span.work else {
                legend::fill(canvas, edges, Fill::Hatched);
                continue;
            };
            legend::fill(canvas, edges, Fill::Solid(kind(layers)));
            canvas.line(&[(edges.right, top), (edges.right, top + LANE)], theme.background, 1);
            // The first name tells enough, along the box or across.
            let Some(name) = layers.first() else { continue };
            let (room, long) = (edges.right - edges.left, width(name, SMALL));
            let middle = ((edges.left + edges.right) / 2, top + LANE / 2);
            if long + 6 <= room {
                canvas.text(name, middle, SMALL, theme.inside, Anchor::Middle);
            } else if long + 4 <= LANE && room >= 15 {
                canvas.upright(name, middle, SMALL, theme.inside);
            }
        }
    }
}

impl Layout {
    fn height(&self) -> i32 {
        let lanes = self.towers.len() as i32;
        let name_below = if lanes > 1 { LINE } else { 0 };
        2 * LINE + 6 + lanes * LANE + (lanes - 1).max(0) * BETWEEN + name_below + 18
    }
}

/// What a span is of, by its first layer.
fn kind(layers: &[String]) -> usize {
    let first = layers.first().map_or("", |layer| layer);
    match first {
        "input" => KINDS[3].0,
        _ if first.starts_with("conv") => KINDS[0].0,
        _ if first.starts_with("fc") => KINDS[1].0,
        _ => KINDS[2].0,
    }
}

/// When `other` had its half of what a layer takes, and when `tower` has got it, for each of its joins.
fn exchanges(tower: &Tower, other: &Tower) -> Vec<[f64; 2]> {
    let joins = |tower: &Tower| -> Vec<(String, TowerSpan)> {
        let join = |span: &TowerSpan| match &span.work {
            TowerWork::Join { layer, .. } => Some((layer.clone(), span.clone())),
            TowerWork::Layers { .. } => None,
        };
        tower.spans.iter().filter_map(join).collect()
    };
    let others = joins(other);
    let exchange = |(layer, join): (String, TowerSpan)| {
        // Where the other waits for nothing there, it was ready with the last layer that it had computed by then.
        let computed = other.spans.iter().map(|span| span.end_ms).rfind(|end| *end <= join.end_ms);
        let ready = others.iter().find(|(name, _)| *name == layer).map(|(_, join)| join.begin_ms).or(computed);
        [ready.unwrap_or(join.end_ms).min(join.end_ms), join.end_ms]
    };
    joins(tower).into_iter().map(exchange).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tower(spans: &[(&str, f64, f64)]) -> Tower {
        let span = |&(name, begin_ms, end_ms): &(&str, f64, f64)| TowerSpan {
            work: match name.strip_prefix("join ") {
                Some(layer) => TowerWork::Join { layer: layer.into(), bytes: 1000 },
                None => TowerWork::Layers { layers: vec![name.into()] },
            },
            begin_ms,
            end_ms,
        };
        Tower {
            place: "a tower".into(),
            computing_ms: 0.0,
            joins_ms: 0.0,
            idle_ms: 0.0,
            exchanged_bytes: 0,
            spans: spans.iter().map(span).collect(),
        }
    }

    #[test]
    fn arrows_go_from_ready_to_received() {
        let first =
            tower(&[("conv2", 0.0, 0.30), ("join conv3", 0.30, 0.35), ("conv3", 0.35, 0.6), ("join fc8", 0.6, 0.7)]);
        let second = tower(&[("conv2", 0.0, 0.34), ("join conv3", 0.34, 0.35), ("conv3", 0.35, 0.55)]);
        // The second has nothing to wait for before fc8: it was ready with conv3.
        assert_eq!(exchanges(&first, &second), [[0.34, 0.35], [0.55, 0.7]]);
        assert_eq!(exchanges(&second, &first), [[0.30, 0.35]]);
    }

    #[test]
    fn boxes_are_of_their_first_layer() {
        let kinds = ["input", "conv1", "pool1", "norm1", "fc6"].map(|layer| kind(&[layer.into(), "relu1".into()]));
        assert_eq!(kinds, [5, 0, 2, 2, 1]);
    }
}
