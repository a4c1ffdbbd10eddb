//! The profile for people, and as CSV.

use alexnet::record::{Bound, Profile, ProfileStep};

/// Columns of the text.
const WIDTH: usize = 116;

/// Steps with their rates, then what ran them, then the notes.
pub fn table(profile: &Profile) -> String {
    let Profile { subject, machine, ceilings, run_ms, stepwise_ms, .. } = profile;
    let mut text = String::new();
    let images = if profile.batch_size == 1 { "1 image".into() } else { format!("{} images", profile.batch_size) };
    wrap(&mut text, &format!("{}, {images}, {}, on {}", subject.model, profile.precision, machine.device));
    let (gflops, gbytes) = (ceilings.flops_per_sec / 1e9, ceilings.bytes_per_sec / 1e9);
    let mut line = |line: String| {
        text.push_str(&line);
        text.push('\n');
    };
    line(format!("ceilings: {gflops:.1} GFLOP/s ({}), {gbytes:.1} GB/s ({})", ceilings.product, ceilings.copy));
    for track in &profile.tracks {
        line(String::new());
        line(track.place.clone());
        line(format!(
            "{:<26}{:>10}{:>8}{:>8}{:>10}{:>10}{:>11}{:>10}{:>10}  {}",
            "step", "ms", "+-", "%", "GFLOP", "MB", "GFLOP/s", "GB/s", "roofline", "bound"
        ));
        track.steps.iter().for_each(|step| line(row(step)));
    }
    line(String::new());
    line(format!(
        "a run takes {:.3} ms (+- {:.1} %); step by step {:.3} ms (+- {:.1} %); {} runs each; steps over run {:.3}",
        run_ms.median,
        100.0 * run_ms.cv,
        stepwise_ms.median,
        100.0 * stepwise_ms.cv,
        profile.runs,
        profile.steps_over_run
    ));
    line(String::new());
    for (number, track) in profile.tracks.iter().enumerate() {
        for step in track.steps.iter().filter(|step| step.kind != "join") {
            let tower = if profile.tracks.len() > 1 { format!("tower {number}, ") } else { String::new() };
            wrap(&mut text, &format!("{tower}{}: {}", step.name, step.kernel));
        }
    }
    text.push('\n');
    profile.notes.iter().for_each(|note| wrap(&mut text, note));
    text
}

fn row(step: &ProfileStep) -> String {
    let time = &step.time_ms;
    let bound = match step.bound {
        _ if step.kind == "join" => "",
        Bound::Compute => "compute",
        Bound::Memory => "memory",
    };
    format!(
        "{:<26}{:>10.3}{:>8}{:>8.1}{:>10.3}{:>10.2}{:>11.1}{:>10.2}{:>10}  {bound}",
        step.name,
        time.median,
        format!("{:.1} %", 100.0 * time.cv),
        step.percentage,
        step.flops / 1e9,
        step.bytes / 1e6,
        step.flops_per_sec / 1e9,
        step.bytes_per_sec / 1e9,
        if step.kind == "join" { String::new() } else { format!("{:.1} %", step.roofline_percentage) },
    )
}

/// `note` in lines of the text's width.
fn wrap(text: &mut String, note: &str) {
    let mut column = 0;
    for word in note.split(' ') {
        let length = word.chars().count();
        if column > 0 && column + 1 + length > WIDTH {
            text.push('\n');
            column = 0;
        }
        if column > 0 {
            text.push(' ');
            column += 1;
        }
        text.push_str(word);
        column += length;
    }
    text.push('\n');
}

/// A row a step.
pub fn csv(profile: &Profile) -> String {
    let mut csv = csv::Writer::from_writer(vec![]);
    let mut write = |record: Vec<String>| csv.write_record(record).expect("memory takes it");
    let figures = profile.run_ms.figures().map(|(name, _)| format!("ms_{name}"));
    let before = "track place step kind kernel input_shape output_shape params mult_adds flops bytes runs".split(' ');
    let after = "percentage flops_per_sec bytes_per_sec roofline_percentage bound".split(' ');
    write(before.map(String::from).chain(figures).chain(after.map(String::from)).collect());
    for (number, track) in profile.tracks.iter().enumerate() {
        for step in &track.steps {
            let shape = |shape: [usize; 4]| shape.map(|side| side.to_string()).join("x");
            let mut record = vec![
                number.to_string(),
                track.place.clone(),
                step.name.clone(),
                step.kind.clone(),
                step.kernel.clone(),
                shape(step.input_shape),
                shape(step.output_shape),
                step.params.to_string(),
                step.mult_adds.to_string(),
                step.flops.to_string(),
                step.bytes.to_string(),
                profile.runs.to_string(),
            ];
            record.extend(step.time_ms.figures().map(|(_, value)| value.to_string()));
            let rates = [step.percentage, step.flops_per_sec, step.bytes_per_sec, step.roofline_percentage];
            record.extend(rates.map(|value| value.to_string()));
            record.push(if step.bound == Bound::Compute { "compute" } else { "memory" }.into());
            write(record);
        }
    }
    String::from_utf8(csv.into_inner().expect("memory takes it")).expect("made of strings")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::profile::report::tests::record;

    #[test]
    fn tables_and_csv_have_every_step() {
        let profile = record();
        let table = table(&profile);
        for part in
            ["conv1 + relu1", "join conv2", "12.5 %", "compute", "tower 1, conv2: conv_f16", "steps over run 1.100"]
        {
            assert!(table.contains(part), "'{part}' is not in:\n{table}");
        }
        assert!(table.lines().all(|line| line.chars().count() <= 120), "{table}");
        let text = csv(&profile);
        let mut reader = csv::Reader::from_reader(text.as_bytes());
        let heading = "track place step kind kernel input_shape output_shape params mult_adds flops bytes runs ms_min ms_mean \
                       ms_median ms_p90 ms_p95 ms_p99 ms_max ms_cv percentage flops_per_sec bytes_per_sec roofline_percentage bound";
        assert_eq!(reader.headers().unwrap(), heading.split_whitespace().collect::<Vec<_>>());
        assert_eq!(reader.records().collect::<Result<Vec<_>, _>>().unwrap().len(), 4);
    }
}
