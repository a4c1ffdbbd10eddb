//! What was measured, and what it was measured on; what is not known is left out.

use alexnet::record::{Machine, Record, Subject};
use maud::{Markup, html};

use crate::cli::words::grouped;

/// Every machine with its software and state, once.
pub fn machines(records: &[Record]) -> Markup {
    let mut machines: Vec<&Machine> = vec![];
    for record in records {
        let machine = record.machine();
        // Those of a run after another differ in nothing but the date.
        if !machines.iter().any(|other| Machine { date: machine.date.clone(), ..(*other).clone() } == *machine) {
            machines.push(machine);
        }
    }
    html! { @for machine in machines { (list(&of_machine(machine))) } }
}

fn of_machine(machine: &Machine) -> Vec<(String, String)> {
    let Machine { date, program, commit, system, cpu, cores, device, gpus, driver, clocks, versions } = machine;
    let mut facts = vec![("device".to_string(), device.clone())];
    let mut add = |name: &str, value: Option<String>| facts.extend(value.map(|value| (name.to_string(), value)));
    add("GPUs", (!gpus.is_empty()).then(|| gpus.join(", ")));
    add("driver", driver.clone());
    add(
        "clocks",
        clocks.as_ref().map(|clocks| {
            let [now, most, memory] =
                [clocks.sm_mhz, clocks.sm_max_mhz, clocks.memory_mhz].map(|mhz| grouped(mhz.into(), 0));
            let watts = grouped(clocks.power_limit_w, 0);
            format!("{now} MHz of at most {most}, memory {memory} MHz, power limit {watts} W")
        }),
    );
    add("CPU", cpu.clone());
    add("cores", Some(cores.to_string()));
    add("system", Some(system.clone()));
    add("program", Some(program.clone()));
    add("commit", commit.clone());
    for (name, version) in versions {
        add(name, Some(version.clone()));
    }
    add("date", Some(date.clone()));
    facts
}

/// The network and its switches.
pub fn subject(subject: &Subject) -> Markup {
    let Subject {
        model,
        checkpoint,
        input_size,
        classes,
        param_count,
        gmacs,
        macts,
        split,
        fc,
        deterministic,
        threads,
    } = subject;
    let mut facts = vec![
        ("network", format!("{model}, {input_size} × {input_size} input, {} classes", grouped(*classes as f64, 0))),
        ("weights", checkpoint.clone()),
        ("parameters", grouped(*param_count as f64, 0)),
        ("an image", format!("{gmacs:.4} × 10⁹ multiply-adds, {macts:.4} × 10⁶ activations")),
        ("threads", threads.to_string()),
    ];
    facts.extend(split.as_ref().map(|split| ("split", split.clone())));
    facts.extend(fc.as_ref().map(|fc| ("fully connected", fc.clone())));
    if *deterministic {
        facts.push(("deterministic", "yes".into()));
    }
    list(&facts)
}

pub fn list<N: AsRef<str>>(facts: &[(N, String)]) -> Markup {
    html! {
        dl { @for (name, value) in facts { dt { (name.as_ref()) } dd { (value) } } }
    }
}
