//! Single kernels beside what the vendor's libraries do for the same layer.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::profile::{Bound, Ceilings};
use super::{Machine, Record};
use crate::statistics::Spread;
use crate::{Error, Result, file};

/// A run of the kernel benchmarks.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Kernels {
    /// What it ran on.
    pub machine: Machine,
    /// What the device reaches, measured in the same run, for each precision.
    pub ceilings: Vec<(String, Ceilings)>,
    /// Every case that ran.
    pub cases: Vec<KernelCase>,
    /// How operands were made and caches kept cold, what was left out and why.
    pub notes: Vec<String>,
}

/// A layer, or a few that are fused, at one precision and batch size.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct KernelCase {
    /// `conv`, `fc`, `pool_lrn`, `preprocess`, `network`; `conv_pool` and `lrn_pool` are the steps that one kernel can fuse.
    pub group: String,
    /// The variant that it is from.
    pub variant: String,
    /// `conv1+relu1`; of a whole network `network`.
    pub layer: String,
    /// What it computes in.
    pub precision: String,
    /// Images.
    pub batch_size: usize,
    /// What ran it: kernel, grid, splits.
    pub kernel: String,
    /// A run, over criterion's samples.
    pub time_us: Spread,
    /// Of a run, two a multiply-add.
    pub flops: f64,
    /// What a run must read and write, each value once.
    pub bytes: f64,
    /// At the median time.
    pub flops_per_sec: f64,
    /// At the median time.
    pub bytes_per_sec: f64,
    /// The least time that the ceilings allow over the median time, in percent.
    pub roofline_percentage: f64,
    /// Which ceiling that is.
    pub bound: Bound,
    /// The same layer by other libraries, in the same run.
    pub peers: Vec<KernelPeer>,
}

/// A layer by another library.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct KernelPeer {
    /// `cudnn`, `cublaslt`; `separate` for our own kernels, a step each.
    pub library: String,
    /// What it ran.
    pub how: String,
    /// A run.
    pub time_us: Spread,
    /// Its median time over ours: above 1 where we are faster.
    pub ratio: f64,
}

impl Kernels {
    /// What `path` has, to be added to, or nothing yet where there is no such file.
    ///
    /// # Errors
    /// [`Error::Usage`] where the file is another kind of record, or of another machine or commit than `machine`.
    pub fn open(path: &Path, machine: Machine) -> Result<Self> {
        if !path.exists() {
            return Ok(Kernels { machine, ceilings: vec![], cases: vec![], notes: vec![] });
        }
        let refused = |what: &str| Err(Error::Usage(format!("{}: {what}; name another file", path.display())));
        match Record::read(path)? {
            Record::Kernels(kernels) => match same_place(&kernels.machine, &machine) {
                true => Ok(kernels),
                false => refused("the record of kernels there is of another machine, device or commit"),
            },
            _ => refused("the record there is not one of kernels"),
        }
    }

    /// The ceilings of a precision, by its name.
    pub fn ceilings(&self, precision: &str) -> Option<&Ceilings> {
        self.ceilings.iter().find(|(name, _)| name == precision).map(|(_, ceilings)| ceilings)
    }

    /// Adds a case, in the place of an earlier measurement of it.
    pub fn add(&mut self, case: KernelCase) {
        match self.cases.iter_mut().find(|other| other.is_of(&case)) {
            Some(other) => *other = case,
            None => self.cases.push(case),
        }
    }

    /// Adds a note, once.
    pub fn note(&mut self, note: String) {
        if !self.notes.contains(&note) {
            self.notes.push(note);
        }
    }

    /// Writes all of it to `path`, of which a reader sees the old content or the new one.
    ///
    /// # Errors
    /// [`Error::Output`] where it cannot be written.
    pub fn write(self, path: &Path) -> Result<()> {
        file::write(path, Record::Kernels(self).json().as_bytes())
    }
}

impl KernelCase {
    /// Whether `other` is the same work in the same place.
    fn is_of(&self, other: &KernelCase) -> bool {
        let key = |case: &KernelCase| {
            let KernelCase { group, variant, layer, precision, batch_size, .. } = case;
            (group.clone(), variant.clone(), layer.clone(), precision.clone(), *batch_size)
        };
        key(self) == key(other)
    }
}

/// Whether figures of two machines can stand in one table; dates and clocks may differ.
fn same_place(a: &Machine, b: &Machine) -> bool {
    let place = |m: &Machine| {
        let Machine { commit, cpu, cores, device, gpus, driver, .. } = m.clone();
        (commit, cpu, cores, device, gpus, driver)
    };
    place(a) == place(b)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn machine() -> Machine {
        Machine {
            date: "2026-11-29T22:21:16Z".into(),
            program: "alexnet 0.1.0".into(),
            commit: None,
            system: "Linux".into(),
            cpu: None,
            cores: 2,
            device: "cuda:0 (a GPU)".into(),
            gpus: vec!["a GPU".into()],
            driver: None,
            clocks: None,
            versions: Default::default(),
        }
    }

    fn case(layer: &str, us: f64) -> KernelCase {
        let peer = KernelPeer {
            library: "cudnn".into(),
            how: "implicit GEMM".into(),
            time_us: Spread::of(vec![2.0 * us]),
            ratio: 2.0,
        };
        KernelCase {
            group: "conv".into(),
            variant: "paper".into(),
            layer: layer.into(),
            precision: "float16".into(),
            batch_size: 32,
            kernel: "conv_f16_128x64".into(),
            time_us: Spread::of(vec![us]),
            flops: 2e9,
            bytes: 1e6,
            flops_per_sec: 2e15 / us,
            bytes_per_sec: 1e12 / us,
            roofline_percentage: 50.0,
            bound: Bound::Compute,
            peers: vec![peer],
        }
    }

    fn ceilings() -> Ceilings {
        Ceilings { flops_per_sec: 1e15, product: "large".into(), bytes_per_sec: 4e12, copy: "larger".into() }
    }

    /// Dotted names of all fields; those of a spread are its own matter.
    fn names(value: &Value, prefix: &str, found: &mut Vec<String>) {
        match value {
            Value::Object(fields) if !prefix.ends_with("time_us.") => {
                fields.iter().for_each(|(name, value)| names(value, &format!("{prefix}{name}."), found));
            }
            Value::Array(items) if items.first().is_some_and(|item| !item.is_string()) => {
                names(&items[0], &format!("{}[].", prefix.trim_end_matches('.')), found);
            }
            _ => found.push(prefix.trim_end_matches('.').to_string()),
        }
    }

    #[test]
    fn the_json_has_these_names() {
        let mut record = Kernels { machine: machine(), ceilings: vec![], cases: vec![], notes: vec!["cold".into()] };
        record.add(case("conv2", 1.0));
        record.ceilings.push(("float16".into(), ceilings()));
        let mut json: Value = serde_json::from_str(&Record::Kernels(record).json()).unwrap();
        json.as_object_mut().unwrap().shift_remove("machine");
        // A pair, by JSON a list of two.
        assert_eq!(json["ceilings"][0][0], json!("float16"));
        let ceilings = json.as_object_mut().unwrap().shift_remove("ceilings").unwrap();
        let mut found = vec![];
        names(&ceilings[0][1], "ceilings.", &mut found);
        names(&json, "", &mut found);
        let expected = "ceilings.flops_per_sec ceilings.product ceilings.bytes_per_sec ceilings.copy schema cases[].group \
                        cases[].variant cases[].layer cases[].precision cases[].batch_size cases[].kernel cases[].time_us \
                        cases[].flops cases[].bytes cases[].flops_per_sec cases[].bytes_per_sec cases[].roofline_percentage \
                        cases[].bound cases[].peers[].library cases[].peers[].how cases[].peers[].time_us \
                        cases[].peers[].ratio notes";
        assert_eq!(found, expected.split_whitespace().collect::<Vec<_>>());
        assert_eq!((&json["schema"], &json["cases"][0]["bound"]), (&json!("alexnet.kernels.1"), &json!("compute")));
    }

    #[test]
    fn later_runs_add_to_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("kernels.json");
        let open = |machine| Kernels::open(&path, machine);
        for (layer, us) in [("conv2", 1.0), ("conv3", 2.0), ("conv2", 3.0)] {
            let later = Machine { date: format!("2026-11-29T22:21:1{us}Z"), ..machine() };
            let mut record = open(later).unwrap();
            assert_eq!(record.machine.date, "2026-11-29T22:21:11Z", "the first run's");
            record.add(case(layer, us));
            record.note("once".into());
            record.write(&path).unwrap();
        }
        let Record::Kernels(record) = Record::read(&path).unwrap() else { panic!("another record") };
        let cases: Vec<_> = record.cases.iter().map(|case| (&*case.layer, case.time_us.median)).collect();
        assert_eq!((cases, record.notes.len()), (vec![("conv2", 3.0), ("conv3", 2.0)], 1));
        for other in [
            Machine { device: "cuda:0 (another GPU)".into(), ..machine() },
            Machine { commit: Some("0123abc".into()), ..machine() },
        ] {
            let error = open(other).unwrap_err().to_string();
            assert!(error.contains("kernels.json") && error.contains("name another file"), "{error}");
        }
        std::fs::write(&path, "{}").unwrap();
        assert!(open(machine()).unwrap_err().to_string().contains("no record"));
    }
}
