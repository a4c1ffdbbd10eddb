//! What a plan runs on a device, and why: each step's problem, kernel and grid, from the same pure functions that a session
//! launches by.

use std::fmt::Write;

use super::footprint::Footprint;
use super::fuse::{self, as_run};
use super::kernels::ConvConfig;
use super::select::{self, Problem, Route, Rules};
use crate::Result;
use crate::net::Network;
use crate::options::Fc;
use crate::plan::{Plan, Step, StepKind};

/// A paragraph a step of `network` for `images` images: problem, launch, and what spoke for it. Cycles are modelled, an
/// order among candidates.
///
/// # Errors
/// [`Error::Usage`](crate::Error::Usage) for a batch of 0, and for cuBLASLt with deterministic rules.
pub fn explain(network: &Network, images: usize, rules: &Rules) -> Result<String> {
    Fc::check(rules.fc, rules.deterministic)?;
    let plan = as_run(network, Plan::new(network, images, &[])?, rules);
    let mut text = format!(
        "{}, {images} image{}, {}{}, {} multiprocessors; cycles are modelled\n",
        network.variant.name,
        if images == 1 { "" } else { "s" },
        rules.precision.name(),
        if rules.deterministic { ", deterministic" } else { "" },
        rules.multiprocessors
    );
    let Footprint { weights, arena, without_reuse } = Footprint::of(network, images, rules)?;
    let [weights, arena, without_reuse] = [weights, arena, without_reuse].map(|bytes| bytes as f64 / 1e6);
    writeln!(
        text,
        "memory: weights {weights:.1} MB, inputs and layers {arena:.1} MB ({without_reuse:.1} MB without reuse)"
    )
    .expect("writing to a String");
    for (index, step) in plan.steps.iter().enumerate() {
        explain_step(&mut text, step, images, rules).expect("writing to a String");
        if let Some(next) = plan.steps.get(index + 1)
            && fuse::pair(step, next, rules).is_some()
            && let Some([fused, separate]) = select::pool_cycles(step, images, rules)
        {
            let pool = next.layers.join(" + ");
            writeln!(text, "    not with {pool} in one kernel: cycles {fused:.0}, in two {separate:.0}")
                .expect("to a String");
        }
    }
    Ok(text)
}

fn explain_step(text: &mut String, step: &Step, images: usize, rules: &Rules) -> std::fmt::Result {
    writeln!(text, "{}: {} -> {}", step.layers.join(" + "), step.input, step.output)?;
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
    let [x, y, z] = launch.grid;
    let threads = launch.kernel.threads();
    writeln!(text, "    {}, {x} x {y} x {z} blocks of {threads} threads", launch.kernel.name())?;
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
    let candidates = problem.candidates(rules);
    if !candidates.iter().any(|c| c.config.kernel == launch.kernel) {
        return writeln!(text, "    a GEMV, which reads each filter once, for up to eight images");
    }
    if launch.splits > 1 {
        let reduce = select::reduce(step, images, rules);
        let [x, ..] = reduce.grid;
        let threads = reduce.kernel.threads();
        writeln!(
            text,
            "    GEMM_K in {} parts, then {}, {x} blocks of {threads} threads",
            launch.splits,
            reduce.kernel.name()
        )?;
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
