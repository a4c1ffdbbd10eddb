//! What towers did when: from [`Timeline`]s to computing, waiting, idling and overlap, which must add up.

use std::time::{Duration, Instant};

use alexnet::record::{Tower, TowerSpan, TowerWork, Towers};
use alexnet::{Error, Pixels, Result, Session, Span, Timeline, Track, Work};

/// Timelines taken of each layout at most and at least, an odd number: the median is one of them.
const RUNS: usize = 11;
const FEW_RUNS: usize = 3;

/// What a device's clock leaves open at each reading: CUDA's events tell half microseconds.
pub const RESOLUTION: Duration = Duration::from_micros(1);

/// Takes timelines of all `sessions` on `pixels` in turns, for `duration` each where that leaves three of them or more, and
/// gives that of each session which took the median time.
///
/// # Errors
/// [`Error::DeviceLost`] for one that does not add up, and those of the device.
pub fn measure(sessions: &mut [Box<dyn Session>], pixels: &Pixels, duration: Duration) -> Result<Vec<Towers>> {
    let mut timelines: Vec<Vec<Timeline>> = vec![vec![]; sessions.len()];
    for session in sessions.iter_mut() {
        session.timeline(alexnet::Input::Pixels(pixels))?; // the first run takes memory
    }
    let total = duration.saturating_mul(sessions.len() as u32);
    let begin = Instant::now();
    for run in 0..RUNS {
        if run >= FEW_RUNS && run % 2 == 1 && begin.elapsed() >= total {
            break;
        }
        for (session, timelines) in sessions.iter_mut().zip(&mut timelines) {
            timelines.push(session.timeline(alexnet::Input::Pixels(pixels))?);
        }
    }
    timelines.iter().map(|timelines| towers(timelines)).collect()
}

/// Of the median of `timelines`, of which there is at least one.
fn towers(timelines: &[Timeline]) -> Result<Towers> {
    timelines.iter().try_for_each(check)?;
    let median = Timeline::median(timelines);
    let total = median.total();
    Ok(Towers {
        total_ms: ms(total),
        overlap: overlap(median),
        towers: median.tracks.iter().map(|track| tower(track, total)).collect(),
        runs_ms: timelines.iter().map(|timeline| ms(timeline.total())).collect(),
    })
}

fn tower(track: &Track, total: Duration) -> Tower {
    let end = track.spans.last().map_or(Duration::ZERO, |span| span.end);
    let sum = |spans: &mut dyn Iterator<Item = &Span>| ms(spans.map(|span| span.end - span.begin).sum());
    let bytes = |span: &Span| if let Work::Join { bytes, .. } = span.work { bytes } else { 0 };
    let spans = track.spans.iter().map(|Span { work, begin, end }| TowerSpan {
        work: match work {
            Work::Layers(layers) => TowerWork::Layers { layers: layers.iter().map(ToString::to_string).collect() },
            &Work::Join { layer, bytes } => TowerWork::Join { layer: layer.into(), bytes },
        },
        begin_ms: ms(*begin),
        end_ms: ms(*end),
    });
    Tower {
        place: track.place.clone(),
        computing_ms: sum(&mut track.spans.iter().filter(|span| computes(span))),
        joins_ms: sum(&mut track.spans.iter().filter(|span| !computes(span))),
        idle_ms: ms(total - end),
        exchanged_bytes: track.spans.iter().map(bytes).sum(),
        spans: spans.collect(),
    }
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

fn computes(span: &Span) -> bool {
    matches!(span.work, Work::Layers(_))
}

/// Checks that each track's spans follow each other without gap from zero, so that computing, joins and idle are the total.
fn check(timeline: &Timeline) -> Result<()> {
    for Track { place, spans } in &timeline.tracks {
        let wrong = |what: String| {
            Error::DeviceLost(format!("the times of {place} do not add up: {what}; this is a mistake, report it"))
        };
        let mut last = Duration::ZERO;
        for Span { work, begin, end } in spans {
            if begin.abs_diff(last) > RESOLUTION || end < begin {
                return Err(wrong(format!("{work:?} from {begin:?} to {end:?}, after what ended at {last:?}")));
            }
            last = *end;
        }
    }
    if timeline.tracks.is_empty() || timeline.tracks.iter().any(|track| track.spans.is_empty()) {
        return Err(Error::DeviceLost("a tower's times are missing; this is a mistake, report it".into()));
    }
    Ok(())
}

/// Time in which all tracks compute, over the computing time of the one that computes least; `None` for a single track.
fn overlap(timeline: &Timeline) -> Option<f64> {
    let computing = |track: &Track| -> Vec<(Duration, Duration)> {
        track.spans.iter().filter(|span| computes(span)).map(|span| (span.begin, span.end)).collect()
    };
    let mut tracks = timeline.tracks.iter().map(computing);
    let mut all = tracks.next()?;
    let time = |spans: &[(Duration, Duration)]| spans.iter().map(|(begin, end)| *end - *begin).sum::<Duration>();
    let mut least = time(&all);
    if timeline.tracks.len() < 2 {
        return None;
    }
    for track in tracks {
        least = least.min(time(&track));
        let common = |a: &(Duration, Duration), b: &(Duration, Duration)| {
            let (begin, end) = (a.0.max(b.0), a.1.min(b.1));
            (begin < end).then_some((begin, end))
        };
        all = all.iter().flat_map(|a| track.iter().filter_map(move |b| common(a, b))).collect();
    }
    Some(time(&all).as_secs_f64() / least.as_secs_f64().max(f64::MIN_POSITIVE))
}

#[cfg(test)]
pub mod tests {
    use super::*;

    fn micros(micros: u64) -> Duration {
        Duration::from_micros(micros)
    }

    fn track(spans: &[(&'static str, u64, u64)]) -> Track {
        let span = |&(name, begin, end): &(&'static str, u64, u64)| Span {
            work: match name.strip_prefix("join ") {
                Some(layer) => Work::Join { layer, bytes: 1000 },
                None => Work::Layers(vec![name]),
            },
            begin: micros(begin),
            end: micros(end),
        };
        Track { place: "a tower".into(), spans: spans.iter().map(span).collect() }
    }

    /// Two towers that meet before conv3 and fc6; the second ends first.
    fn two_towers() -> Timeline {
        let first = [("conv1", 0, 100), ("conv2", 100, 300), ("join conv3", 300, 350), ("conv3", 350, 600)];
        let second = [("conv1", 0, 120), ("conv2", 120, 340), ("join conv3", 340, 350), ("conv3", 350, 550)];
        Timeline { tracks: vec![track(&first), track(&second)] }
    }

    /// What reports are made from in tests.
    pub fn measured(split: bool) -> Towers {
        let single = Timeline { tracks: vec![track(&[("conv1", 0, 200), ("conv2", 200, 620), ("conv3", 620, 1000)])] };
        towers(&[if split { two_towers() } else { single }]).unwrap()
    }

    #[test]
    fn computing_joins_and_idle_are_the_total() {
        let towers = measured(true);
        assert_eq!((towers.total_ms, towers.towers[0].joins_ms, towers.towers[1].idle_ms), (0.6, 0.05, 0.05));
        let close = |a: f64, b: f64| (a - b).abs() < ms(RESOLUTION);
        for tower in &towers.towers {
            assert!(close(tower.computing_ms + tower.joins_ms + tower.idle_ms, towers.total_ms), "{tower:?}");
            assert!(close(tower.spans.iter().map(TowerSpan::ms).sum::<f64>() + tower.idle_ms, towers.total_ms));
            assert_eq!(tower.exchanged_bytes, 1000);
        }
    }

    #[test]
    fn times_that_do_not_add_up_are_refused() {
        let refused = |spans: &[(&'static str, u64, u64)]| {
            let timeline = Timeline { tracks: vec![track(&[("conv1", 0, 1000)]), track(spans)] };
            let error = towers(&[timeline]).unwrap_err();
            assert_eq!(error.exit_code(), 7, "{error}");
            error.to_string()
        };
        assert!(refused(&[("conv1", 0, 100), ("conv2", 102, 200)]).contains("a tower"), "a gap");
        refused(&[("conv1", 0, 100), ("conv2", 98, 200)]); // two at once
        refused(&[("conv1", 2, 100)]); // begins late
        refused(&[("conv1", 0, 100), ("conv2", 100, 99)]); // backwards
        refused(&[]);
        towers(&[Timeline { tracks: vec![] }]).unwrap_err();
        // A device's clock has no more than its resolution.
        towers(&[Timeline { tracks: vec![track(&[("conv1", 0, 100), ("conv2", 101, 200)])] }]).unwrap();
    }

    #[test]
    fn overlap_is_what_both_compute() {
        assert_eq!(measured(false).overlap, None);
        // Both compute from 0 to 300 and from 350 to 550; the second computes 540.
        let found = measured(true).overlap.unwrap();
        assert!((found - 500.0 / 540.0).abs() < 1e-12, "{found}");
        let apart = [track(&[("conv1", 0, 100)]), track(&[("join conv1", 0, 100), ("conv1", 100, 150)])];
        assert_eq!(overlap(&Timeline { tracks: apart.to_vec() }), Some(0.0));
        let third = track(&[("join conv1", 0, 400), ("conv1", 400, 500)]);
        let three = Timeline { tracks: [two_towers().tracks, vec![third]].concat() };
        assert_eq!(overlap(&three), Some(1.0), "the third computes only while both others do");
    }

    #[test]
    fn the_median_run_is_shown() {
        let run = |end| Timeline { tracks: vec![track(&[("conv1", 0, end)])] };
        let towers = super::towers(&[run(300), run(100), run(200)]).unwrap();
        assert_eq!((towers.total_ms, towers.runs_ms), (0.2, vec![0.3, 0.1, 0.2]));
    }
}
