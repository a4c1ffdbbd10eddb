//! Times in the form of trtexec's --exportProfile: a list that begins with the number of runs, then an entry a layer.

use alexnet::record::Profile;
use serde::Serialize;
use serde_json::json;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Layer {
    name: String,
    /// Of all runs together.
    time_ms: f64,
    average_ms: f64,
    median_ms: f64,
    /// Of the sum of all layers' times.
    percentage: f64,
}

/// The JSON text. Where there are several tracks, names begin with theirs.
pub fn export(profile: &Profile) -> String {
    let several = profile.tracks.len() > 1;
    let mut layers = vec![];
    for (number, track) in profile.tracks.iter().enumerate() {
        for step in &track.steps {
            let name = if several { format!("tower {number}: {}", step.name) } else { step.name.clone() };
            let (average_ms, median_ms) = (step.time_ms.mean, step.time_ms.median);
            let time_ms = average_ms * profile.runs as f64;
            layers.push(Layer { name, time_ms, average_ms, median_ms, percentage: 0.0 });
        }
    }
    let total: f64 = layers.iter().map(|layer| layer.time_ms).sum();
    layers.iter_mut().filter(|_| total > 0.0).for_each(|layer| layer.percentage = 100.0 * layer.time_ms / total);
    let layers = layers.iter().map(|layer| json!(layer));
    let list: Vec<_> = [json!({ "count": profile.runs })].into_iter().chain(layers).collect();
    serde_json::to_string_pretty(&list).expect("only strings and finite numbers") + "\n"
}
