//! What a device did when, in the trace event format that Chrome and Perfetto show: a process a device, a track a tower and
//! one for copies in each direction. First the run step by step that took the median time, then batches at full speed.

use std::time::Duration;

use alexnet::record::{Profile, ProfileStep};
use alexnet::{BatchTimes, Interval, Span, Timeline, Work};
use serde_json::{Value, json};

use super::measure::Measured;

/// Microseconds between the two parts.
const GAP: f64 = 1000.0;

/// Tracks of a process beside its towers'.
const COMPUTE: usize = 10;
const COPIES_IN: usize = 11;
const COPIES_OUT: usize = 12;

/// The JSON text.
pub fn draw(profile: &Profile, measured: &Measured) -> String {
    let mut trace = Trace { events: vec![], processes: vec![] };
    let timeline = Timeline::median(&measured.timelines);
    trace.steps(timeline, profile);
    let after = micros(timeline.total()) + GAP;
    trace.batches(&measured.batches, after, &timeline.tracks[0].place, profile);
    let about = json!({
        "program": profile.machine.program,
        "device": profile.machine.device,
        "model": profile.subject.model,
        "precision": profile.precision,
        "batch_size": profile.batch_size,
        "date": profile.machine.date,
    });
    let trace = json!({ "displayTimeUnit": "ms", "otherData": about, "traceEvents": trace.events });
    serde_json::to_string_pretty(&trace).expect("only strings and finite numbers") + "\n"
}

fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

/// The device that a place is on: `tower 1 on cuda:0 (NAME)`, `tower 1, 2 threads of the CPU`, or the device itself.
fn device(place: &str) -> &str {
    match place.split_once(" on ") {
        Some((_, device)) => device,
        None if place.ends_with("of the CPU") => "CPU",
        None => place,
    }
}

/// A track of the pipeline: its number, what it does, its name, and its part of a batch.
type Part = (usize, &'static str, &'static str, fn(&BatchTimes) -> Option<Interval>);

struct Trace {
    events: Vec<Value>,
    /// Devices, whose numbers count from 1.
    processes: Vec<String>,
}

impl Trace {
    /// The process of the device that `place` is on.
    fn process(&mut self, place: &str) -> usize {
        let device = device(place);
        if let Some(known) = self.processes.iter().position(|process| process == device) {
            return known + 1;
        }
        self.processes.push(device.into());
        let number = self.processes.len();
        self.name("process_name", number, 0, device);
        number
    }

    fn name(&mut self, what: &str, pid: usize, tid: usize, name: &str) {
        self.events.push(json!({ "ph": "M", "name": what, "pid": pid, "tid": tid, "args": { "name": name } }));
    }

    fn complete(
        &mut self,
        name: &str,
        category: &str,
        (pid, tid): (usize, usize),
        (begin, end): (f64, f64),
        args: Value,
    ) {
        self.events.push(json!({
            "ph": "X", "name": name, "cat": category, "pid": pid, "tid": tid, "ts": begin, "dur": (end - begin).max(0.0),
            "args": args,
        }));
    }

    /// A run step by step, with an arrow to each join from the step that it waits for.
    fn steps(&mut self, timeline: &Timeline, profile: &Profile) {
        let places: Vec<usize> = timeline.tracks.iter().map(|track| self.process(&track.place)).collect();
        for (number, track) in timeline.tracks.iter().enumerate() {
            self.name("thread_name", places[number], number + 1, &format!("step by step: {}", track.place));
        }
        let mut arrows = 0;
        for (number, (track, steps)) in timeline.tracks.iter().zip(&profile.tracks).enumerate() {
            for (span, step) in track.spans.iter().zip(&steps.steps) {
                let (begin, end) = (micros(span.begin), micros(span.end));
                let category = if step.kind == "join" { "join" } else { "step" };
                self.complete(&step.name, category, (places[number], number + 1), (begin, end), details(step));
                let Work::Join { layer, .. } = span.work else { continue };
                let Some(other) = timeline.tracks.get(1 - number.min(1)).filter(|_| timeline.tracks.len() == 2) else {
                    continue;
                };
                let Some(given) = giver(&other.spans, span) else { continue };
                arrows += 1;
                let name = format!("to {layer}");
                let from = micros(given.begin).max(micros(given.end) - 1e-3);
                let common = json!({ "name": name, "cat": "join", "id": arrows });
                let mut arrow = |ph: &str, tower: usize, ts: f64| {
                    let mut event = common.clone();
                    let place = json!({ "ph": ph, "pid": places[tower], "tid": tower + 1, "ts": ts });
                    event.as_object_mut().expect("made so").extend(place.as_object().expect("made so").clone());
                    if ph == "f" {
                        event["bp"] = "e".into();
                    }
                    self.events.push(event);
                };
                arrow("s", 1 - number, from);
                arrow("f", number, begin.max(end - 1e-3));
            }
        }
    }

    /// Batches through the pipeline, from `start` microseconds on.
    fn batches(&mut self, batches: &[BatchTimes], start: f64, place: &str, profile: &Profile) {
        let begins = batches.iter().flat_map(|times| [times.copy_in, Some(times.compute)]).flatten();
        let Some(first) = begins.map(|interval| interval.begin).min() else { return };
        let pid = self.process(place);
        let at = |interval: &Interval| {
            let place = |time: Duration| start + micros(time.saturating_sub(first));
            (place(interval.begin), place(interval.end))
        };
        let flops: f64 = profile.tracks.iter().flat_map(|track| &track.steps).map(|step| step.flops).sum();
        let images = profile.batch_size;
        let parts: [Part; 3] = [
            (COMPUTE, "compute", "batches: compute", |times| Some(times.compute)),
            (COPIES_IN, "copy in", "batches: copies, host to device", |times| times.copy_in),
            (COPIES_OUT, "copy out", "batches: copies, device to host", |times| times.copy_out),
        ];
        for (tid, category, thread, part) in parts {
            if batches.iter().all(|times| part(times).is_none()) {
                continue;
            }
            self.name("thread_name", pid, tid, thread);
            for (number, times) in batches.iter().enumerate() {
                let Some(interval) = part(times) else { continue };
                let mut args = json!({ "images": images, "enqueue_us": micros(times.enqueue) });
                if tid == COMPUTE {
                    args["flops"] = flops.into();
                }
                self.complete(&format!("batch {number}: {category}"), category, (pid, tid), at(&interval), args);
            }
        }
    }
}

/// The last step of the other tower that was over when `join` was.
fn giver<'a>(other: &'a [Span], join: &Span) -> Option<&'a Span> {
    other.iter().rfind(|span| matches!(span.work, Work::Layers(_)) && span.end <= join.end)
}

fn details(step: &ProfileStep) -> Value {
    json!({
        "kernel": step.kernel,
        "flops": step.flops,
        "bytes": step.bytes,
        "input": step.input_shape,
        "output": step.output_shape,
        "median_ms": step.time_ms.median,
        "roofline_percentage": step.roofline_percentage,
    })
}
