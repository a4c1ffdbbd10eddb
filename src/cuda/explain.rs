//! What a plan runs on a device, and why: each step's problem, kernel and grid, from the same pure functions that a session
//! launches by.

use std::fmt::Write;

use super::footprint::{Footprint, buffers};
use super::fuse;
use super::kernels::ConvConfig;
use super::own_if_split;
use super::select::{self, Launch, Problem, Route, Rules};
use super::steps::by_device;
use crate::Result;
use crate::net::Network;
use crate::options::{Fc, Split};
use crate::plan::{Plan, Step, StepKind};

/// A paragraph a step of `network` for `images` images, of each tower where it is split: problem, launch, and what spoke for
/// it. Cycles are modelled, an order among candidates.
///
/// # Errors
/// [`Error::Usage`](crate::Error::Usage) for a batch of 0, for cuBLASLt with deterministic rules or a split, and for a network
/// that cannot be split.
pub fn explain(network: &Network, images: usize, rules: &Rules, split: Option<Split>) -> Result<String> {
    Fc::check(rules.fc, rules.deterministic)?;
    let rules = &Rules { fc: own_if_split(rules.fc, split)?, ..*rules };
    let plan = Plan::new(network, images, &[])?;
    let devices = by_device(network, &plan, rules, split)?;
    let mut text = format!(
        "{}, {images} image{}, {}{}, {} multiprocessors; cycles are modelled\n",
        network.variant.name,
        if images == 1 { "" } else { "s" },
        rules.precision.name(),
        if rules.deterministic { ", deterministic" } else { "" },
        rules.multiprocessors
    );
    let Footprint { weights, .. } = Footprint::of(network, images, rules)?;
    let megabytes = |bytes: usize| bytes as f64 / 1e6;
    write!(text, "memory: weights {:.1} MB", megabytes(weights)).expect(IN_MEMORY);
    for layout in buffers(network, &plan, rules, split)? {
        let (arena, without_reuse) = (megabytes(layout.bytes), megabytes(layout.without_reuse));
        write!(text, ", inputs and layers {arena:.1} MB ({without_reuse:.1} MB without reuse)").expect(IN_MEMORY);
    }
    text.push('\n');
    match split {
        None => {}
        Some(Split::TwoStream) => text.push_str("split: two towers on two streams of one GPU, in one CUDA graph\n"),
        Some(Split::TwoGpu) => text.push_str(
            "split: two towers on two GPUs, kernel by kernel; emulated only: no run on two real GPUs is on record\n",
        ),
    }
    let towers: Vec<&Plan> = devices.iter().flatten().collect();
    for (number, plan) in towers.iter().enumerate() {
        if split.is_some() {
            writeln!(text, "\ntower {number}").expect(IN_MEMORY);
        }
        let other = (towers.get(1 - number).copied(), number == 1 && split == Some(Split::TwoStream));
        explain_plan(&mut text, plan, other, images, rules).expect(IN_MEMORY);
    }
    Ok(text)
}

const IN_MEMORY: &str = "writing to a String";

/// The steps of a plan, and where it meets that of the `other` tower, which may have made the input for both.
fn explain_plan(
    text: &mut String,
    plan: &Plan,
    (other, input_is_shared): (Option<&Plan>, bool),
    images: usize,
    rules: &Rules,
) -> std::fmt::Result {
    for (index, step) in plan.steps.iter().enumerate() {
        if index == 0 && input_is_shared {
            writeln!(text, "join: {}, which the other tower has made", step.layers[0])?;
            continue;
        }
        let before = index.checked_sub(1).and_then(|before| other?.steps.get(before));
        if let Some(given) = before.map(|step| step.given()).filter(|given| !given.is_empty()) {
            let layer = before.expect("it gives").layers.join(" + ");
            writeln!(text, "join: channels {} to {} of {layer}, from the other tower", given.start, given.end - 1)?;
        }
        explain_step(text, step, images, rules)?;
        if let Some(next) = plan.steps.get(index + 1)
            && fuse::pair(step, next, rules).is_some()
            && let Some([fused, separate]) = select::pool_cycles(step, images, rules)
        {
            let pool = next.layers.join(" + ");
            writeln!(text, "    not with {pool} in one kernel: cycles {fused:.0}, in two {separate:.0}")?;
        }
    }
    Ok(())
}

/// What runs `step` by `route`, in a line.
pub(super) fn runs(route: Route, step: &Step, images: usize, rules: &Rules) -> String {
    match route {
        Route::CublasLt => "cublasLtMatmul".into(),
        Route::Kernel(launch) if launch.splits > 1 => {
            format!("{launch}, {}", in_parts(&launch, step, images, rules))
        }
        Route::Kernel(launch) => launch.to_string(),
    }
}

/// How a launch of several splits adds up.
fn in_parts(launch: &Launch, step: &Step, images: usize, rules: &Rules) -> String {
    format!("GEMM_K in {} parts, then {}", launch.splits, select::reduce(step, images, rules))
}

fn explain_step(text: &mut String, step: &Step, images: usize, rules: &Rules) -> std::fmt::Result {
    writeln!(text, "{}: {} -> {}", step.name(), step.input, step.output)?;
    if let StepKind::Linear { relu, .. } = step.kind {
        let epilogue = if relu { "bias and ReLU" } else { "bias" };
        let matmul = format!("cublasLtMatmul with {epilogue}, in the algorithm that its heuristic puts first");
        match (select::route(step, images, rules), rules.fc) {
            (Route::CublasLt, None) => {
                writeln!(text, "    {matmul}; where the library or an algorithm is missing:")?;
            }
            (Route::CublasLt, Some(_)) => {
                writeln!(text, "    {matmul}: asked for")?;
                let (gemm_n, gemm_k) = (step.output.c, step.input.len());
                return writeln!(text, "    GEMM_M {images}, GEMM_N {gemm_n}, GEMM_K {gemm_k}, groups 1");
            }
            (Route::Kernel(_), Some(_)) => writeln!(text, "    not cublasLtMatmul: own kernels are asked for")?,
            (Route::Kernel(_), None) if rules.deterministic => {
                writeln!(text, "    not cublasLtMatmul: it sums in another order for another batch")?;
            }
            (Route::Kernel(_), None) => {
                writeln!(text, "    not cublasLtMatmul: few images, for which a GEMV reads each filter once")?;
            }
        }
    }
    let launch = select::select(step, images, rules);
    writeln!(text, "    {launch}")?;
    if matches!(step.kind, StepKind::LrnMaxPool(_) | StepKind::MaxPoolLrn(_)) {
        writeln!(
            text,
            "    in one kernel, since a tower's channels are whole vectors: nothing is stored between the two"
        )?;
    }
    let Some(problem) = Problem::of(step, images) else { return Ok(()) };
    let Problem { gemm_m, gemm_n, gemm_k, groups, channels } = problem;
    writeln!(text, "    GEMM_M {gemm_m}, GEMM_N {gemm_n}, GEMM_K {gemm_k}, groups {groups}")?;
    if matches!(step.kind, StepKind::Conv { unpooled: Some(_), .. })
        && let Some([fused, separate]) = select::pool_cycles(step, images, rules)
    {
        return writeln!(text, "    cycles: {fused:.0}, with a kernel of its own for the pool {separate:.0}");
    }
    let mut candidates = problem.candidates(rules);
    if !candidates.iter().any(|c| c.config.kernel == launch.kernel) {
        return writeln!(text, "    a GEMV, which reads each filter once, for up to eight images");
    }
    if step.half.is_some() {
        candidates.retain(|candidate| candidate.splits == launch.splits);
        writeln!(text, "    GEMM_K in as many parts as the whole network's, so that sums are the same")?;
    }
    if launch.splits > 1 {
        writeln!(text, "    {}", in_parts(&launch, step, images, rules))?;
    }
    let name = |config: &ConvConfig, splits: usize| match splits {
        1 => config.kernel.name().to_string(),
        _ => format!("{} in {splits} parts", config.kernel.name()),
    };
    let rated = candidates.iter().take(3).map(|c| format!("{} {:.0}", name(&c.config, c.splits), c.cycles));
    writeln!(text, "    cycles: {}", rated.collect::<Vec<_>>().join(", "))?;
    for config in ConvConfig::all(rules.precision) {
        if !channels.is_multiple_of(config.channels) {
            writeln!(text, "    not {}: {channels} channels are no multiple of {}", name(&config, 1), config.channels)?;
        }
    }
    Ok(())
}
