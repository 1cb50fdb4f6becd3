//! Medians of one container's life (create, start, exit, delete) and of an exec, per runtime given on the command line:
//! `cargo run --release -p executor --example cycle -- runc target/…/gantry-runtime`. Needs root.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use executor::Runtime;
use executor::contract::Lab;

const ROUNDS: usize = 40;

fn main() {
    for runtime in std::env::args_os().skip(1).map(PathBuf::from) {
        let lab = Lab::new(Runtime::External(runtime.clone()));
        let spec = lab.spec(&["true"]);
        let mut steps: [Vec<Duration>; 5] = Default::default();
        for _ in 0..ROUNDS {
            let begin = Instant::now();
            let container = lab.try_create(&spec).expect("create");
            let created = Instant::now();
            container.start();
            let started = Instant::now();
            container.wait();
            let ended = Instant::now();
            container.delete(false).expect("delete");
            let deleted = Instant::now();
            for (step, time) in steps.iter_mut().zip([
                created - begin,
                started - created,
                ended - started,
                deleted - ended,
                deleted - begin,
            ]) {
                step.push(time);
            }
        }
        let container = lab.start(&lab.spec(&["sleep", "1000"]));
        let mut process = container.script("");
        process["args"] = serde_json::json!(["true"]);
        let mut execs = Vec::new();
        for round in 0..ROUNDS {
            let begin = Instant::now();
            container.exec(&format!("e{round}"), &process).expect("exec");
            execs.push(begin.elapsed());
        }
        let [create, start, exit, delete, all] = steps.map(median);
        println!(
            "{}: create {create:.1} + start {start:.1} + exit {exit:.1} + delete {delete:.1} = {all:.1} ms; exec {:.1} ms",
            runtime.display(),
            median(execs)
        );
    }
}

fn median(mut times: Vec<Duration>) -> f64 {
    times.sort_unstable();
    times[times.len() / 2].as_secs_f64() * 1000.0
}
