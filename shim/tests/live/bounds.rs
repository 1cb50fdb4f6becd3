//! How much a shim may take, and what must be left of thousands of processes: nothing.

use std::path::{Path, PathBuf};
use std::thread;

use crate::client::Client;
use crate::machine::{Container, Machine, eventually, exec_request, executors, finish, installed_shim, pids_with};

/// How many processes are added in a row. `GANTRY_TEST_EXECS` has another number: 10000 is what must hold.
const EXECS: u32 = 1000;
/// What an idle shim with one container may take.
const MAX_RESIDENT_KIB: u64 = 1024;
/// What of that may be nobody else's.
const MAX_PRIVATE_KIB: u64 = 200;
/// How many processes are added at the same time.
const AT_ONCE: u32 = 50;

fn execs() -> u32 {
    std::env::var("GANTRY_TEST_EXECS").ok().and_then(|count| count.parse().ok()).unwrap_or(EXECS)
}

/// The memory of a process.
#[derive(Debug)]
struct Memory {
    resident: u64,
    private: u64,
    /// What is in no file.
    anonymous: u64,
}

fn memory(pid: i32) -> Memory {
    let rollup = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
    let kib = |name: &str| -> u64 {
        let line = rollup.lines().find(|line| line.starts_with(name)).expect("the kernel tells");
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    };
    Memory {
        resident: kib("Rss:"),
        private: kib("Private_Clean:") + kib("Private_Dirty:"),
        anonymous: kib("Anonymous:"),
    }
}

fn descriptors(pid: i32) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count()
}

fn children(pid: i32) -> usize {
    std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap().split_whitespace().count()
}

/// Files in the bundle that belong to added processes.
fn left_in(container: &Container) -> Vec<String> {
    let names = std::fs::read_dir(&container.bundle).unwrap();
    let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.starts_with("exec")).collect()
}

fn socket(container: &Container) -> PathBuf {
    let address = std::fs::read_to_string(container.bundle.join("address")).unwrap();
    address.strip_prefix("unix://").unwrap().into()
}

#[test]
fn an_idle_shim_is_small_and_thousands_of_processes_later_it_still_is() {
    let Some(shim) = installed_shim() else {
        eprintln!("skipped: needs the program as it is installed, in GANTRY_BIN");
        return;
    };
    if executors().is_empty() {
        return;
    }
    let mut machine = Machine::of_shim("builtin", shim);
    // Pages of the program are private to the only process that has it.
    let (other, other_client) = machine.running(&["sleep", "1000"]);
    let (container, mut client) = machine.running(&["sleep", "1000"]);
    let shim = client.shim_pid();
    let small = |when: &str| {
        eventually(when, || {
            let memory = memory(shim);
            memory.resident < MAX_RESIDENT_KIB && memory.private < MAX_PRIVATE_KIB
        });
        let memory = memory(shim);
        eprintln!("{when}: {memory:?}");
        memory
    };
    small("small");
    let mut run = |count: u32| {
        for n in 0..count {
            assert_eq!(client.run(&exec_request(&container, &format!("exec{n}"), &["true"])), 0);
        }
    };
    // What is needed once is there after a few.
    run(50);
    let (before, open) = (small("small after a few"), descriptors(shim));
    run(execs());
    let after = small("small after many");
    assert!(after.anonymous <= before.anonymous + 8, "from {before:?} to {after:?}");
    assert_eq!(descriptors(shim), open);
    assert_eq!((children(shim), left_in(&container)), (1, Vec::new()), "only the init is left");
    finish(&container, client);
    finish(&other, other_client);
}

#[test]
fn processes_that_misbehave_all_return_and_none_leaks() {
    for executor in executors() {
        let count = if executor == "builtin" { execs() } else { execs() / 10 };
        let mut machine = Machine::new(executor);
        let (container, mut client) =
            machine.running(&["sh", "-c", "trap : CHLD; while true; do sleep 1 & wait; done"]);
        let shim = client.shim_pid();
        let open = descriptors(shim);
        let threads: Vec<_> = (0..AT_ONCE)
            .map(|n| {
                let (container, socket) = (container.clone(), socket(&container));
                let out = machine.path().join(format!("out{n}"));
                thread::spawn(move || misbehave(&container, &socket, &out, n, count / AT_ONCE))
            })
            .collect();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        // Those that made themselves independent live on, but are no business of the shim's.
        let mark = format!("sleep 98765{}", std::process::id());
        assert!(!pids_with(&mark).is_empty(), "some of them did");
        client.run(&exec_request(&container, "exec-end", &["sh", "-c", "kill -9 -1"]));
        eventually("all of them are gone", || pids_with(&mark).is_empty());
        eventually("only the init is left", || children(shim) == 1);
        eventually("no descriptor is left", || descriptors(shim) <= open);
        assert_eq!(left_in(&container), Vec::<String>::new());
        finish(&container, client);
    }
}

/// Adds `count` processes, one after the other, each of which leaves something behind in a way of its own.
fn misbehave(container: &Container, socket: &Path, out: &Path, thread: u32, count: u32) {
    let mut client = Client::connect(socket);
    for n in 0..count {
        let long = format!("sleep 98765{}", std::process::id());
        let (script, has_output) = match (thread + n) % 5 {
            // A daemon, as they are made: a child of a child, in a session of its own, without streams.
            0 => (format!("(setsid {long} </dev/null >/dev/null 2>&1 &) & wait; exit 3"), false),
            // One that keeps its streams.
            1 => (format!("(setsid {long} &) & wait; exit 3"), thread == 1 && n == 0),
            // Children that nobody waits for.
            2 => ("true & true & true & exec sh -c 'exit 3'".to_owned(), false),
            // Output until the very end.
            3 => ("seq 2000; exit 3".to_owned(), true),
            _ => ("exit 3".to_owned(), false),
        };
        let mut request = exec_request(container, &format!("exec{thread}-{n}"), &["sh", "-c", &script]);
        if has_output {
            request.stdout = format!("file://{}", out.display());
        }
        assert_eq!(client.run(&request), 3, "{script}");
    }
}

#[test]
fn the_program_can_be_replaced_or_deleted_while_containers_run() {
    for executor in executors() {
        for deletes in [true, false] {
            let copy = tempfile::Builder::new().prefix("gs").tempdir().unwrap();
            let program = copy.path().join("gantry-shim");
            std::fs::copy(
                std::env::var_os("GANTRY_TEST_SHIM").unwrap_or(env!("CARGO_BIN_EXE_gantry-shim").into()),
                &program,
            )
            .unwrap();
            let mut machine = Machine::of_shim(executor, program.clone());
            let (container, mut client) = machine.running(&["sleep", "1000"]);
            std::fs::remove_file(&program).unwrap();
            if !deletes {
                std::fs::write(&program, "something else").unwrap();
            }
            let id = &container.id;
            assert_eq!(client.run(&exec_request(&container, "exec1", &["sh", "-c", "exit 4"])), 4);
            let id_of = |id: &String| proto::task::v3::PauseRequest { id: id.clone() };
            client.call::<_, ()>("Pause", &id_of(id)).unwrap();
            client.call::<_, ()>("Resume", &proto::task::v3::ResumeRequest { id: id.clone() }).unwrap();
            finish(&container, client);
        }
    }
}
