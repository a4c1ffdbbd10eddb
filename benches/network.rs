//! Whole networks at full width to the best class: on a GPU a pipeline of pixels that the device holds, on the CPU a session
//! of pixels in memory.

mod common;

use alexnet::backend::{Input, Score};
use alexnet::cuda::fuse;
use alexnet::net::{Network, VARIANTS, Variant};
use alexnet::plan::Plan;
use alexnet::roofline::Demand;
use alexnet::weights::seeded;
use alexnet::{Model, Options, Precision};
use common::{Bench, Case, Choice, Place, Routine};

fn main() {
    // A pipeline has streams of its own.
    let mut bench = Bench::on_the_hosts_clock();
    let choice = bench.choice.clone();
    let mut cases = vec![];
    for variant in &VARIANTS {
        for &precision in &choice.precisions {
            cases.extend(choice.batches.iter().map(|&batch| case(&choice, variant, precision, batch)));
        }
    }
    bench.run("network", cases);
    bench.finish();
}

fn case<'a>(choice: &'a Choice, variant: &'static Variant, precision: Precision, batch: usize) -> Case<'a> {
    let network = Network::published(variant, 1000).expect("published widths fit");
    let plan = Plan::new(&network, batch, &[]).expect("a batch of at least one");
    let plan = match choice.place {
        Place::Cpu => plan,
        Place::Cuda(_) => fuse::as_run(&network, plan, &choice.rules(precision)),
    };
    Case {
        variant: variant.name,
        layer: "network".into(),
        precision,
        batch,
        demands: plan.steps.iter().map(|step| Demand::of(&network, step, batch, precision)).collect(),
        make: Box::new(move || {
            let options = choice.options(precision);
            match choice.place {
                Place::Cpu => by_session(variant, &options, batch),
                Place::Cuda(_) => by_pipeline(variant, &options, batch),
            }
        }),
        peers: vec![],
    }
}

fn by_session(variant: &'static Variant, options: &Options, batch: usize) -> Routine<'static> {
    let model = model(variant, options);
    let mut pixels = vec![0; batch * model.network().input().len()];
    seeded::pictures(0, variant.input_size, &mut pixels);
    let mut session = model.session(batch, &[]).expect("memory for a batch");
    let round = move || {
        session.run(Input::Pixels(&pixels)).expect("the input fits");
        session.top_k(1, Score::Prob).expect("the run succeeded");
    };
    Routine { how: format!("session, {}", model.device()), runs: 1, round: Box::new(round) }
}

/// Batches follow each other on the device, each as long after the one before as a batch takes.
fn by_pipeline(variant: &'static Variant, options: &Options, batch: usize) -> Routine<'static> {
    let model = model(variant, options);
    let mut pipeline = model.pipeline(batch, 1, Score::Prob).expect("memory for a batch");
    for _ in 0..pipeline.depth() {
        let mut pixels = model.pixels(batch).expect("memory for a batch");
        seeded::pictures(0, variant.input_size, &mut pixels);
        pipeline.submit(pixels).expect("the input fits");
    }
    let round = move || {
        let done = pipeline.collect().expect("the device is there").expect("a batch is under way");
        pipeline.resubmit(done.pixels).expect("the same batch again");
    };
    Routine { how: format!("pipeline, CUDA graph, {}", model.device()), runs: 1, round: Box::new(round) }
}

fn model(variant: &'static Variant, options: &Options) -> Model {
    let checkpoint = seeded::checkpoint(variant, 0).expect("published widths fit");
    Model::from_checkpoint(checkpoint, options).expect("seeded weights fit")
}
