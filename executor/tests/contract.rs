//! The contract, over the built-in executor and over the installed runtimes.

use std::path::PathBuf;

use executor::contract::Lab;
use executor::{Runtime, executor_contract};

executor_contract!(builtin, Runtime::External(PathBuf::from(env!("CARGO_BIN_EXE_gantry-runtime"))));
executor_contract!(hostile builtin_hostile, Runtime::External(PathBuf::from(env!("CARGO_BIN_EXE_gantry-runtime"))));
executor_contract!(runc, Runtime::External(PathBuf::from("runc")));

/// runc of Debian 12 (1.1.5) makes links through a `/dev` that leads to the host, and hangs or unmasks with a false
/// `/dev/null`. Newer ones do not.
#[test]
fn runc_survives_hostile_images_but_for_what_is_known() {
    let known = [
        "a_redirected_dev_is_harmless",
        "devices_are_not_made_through_a_redirected_dev",
        "a_false_dev_null_unmasks_nothing",
    ];
    let failed = executor::contract::survive_hostile_cases(&Runtime::External(PathBuf::from("runc")), &known);
    println!("runc fails: {failed:?}");
}

/// crun of Debian 12 does not run where v1 and v2 are mixed, and says so; where it runs it must run containers.
#[test]
fn crun_runs_containers_or_gives_its_one_reason() {
    let lab = Lab::new(Runtime::External(PathBuf::from("crun")));
    match lab.try_create(&lab.script("exit 3")) {
        Ok(container) => {
            container.start();
            assert_eq!(container.wait().ended, executor::Ended::Exited(3));
        }
        Err(error) => {
            let text = error.to_string();
            assert!(text.starts_with("OCI runtime create failed: "), "{text}");
            assert!(text.contains("cgroup"), "{text}");
            println!("crun does not run here: {text}");
        }
    }
}

/// A runtime that is not installed is named in the words clients know.
#[test]
fn a_runtime_that_is_not_installed_is_named() {
    let lab = Lab::new(Runtime::External(PathBuf::from("no-such-runtime")));
    let error = lab.try_create(&lab.script("true")).err().unwrap();
    assert!(error.to_string().contains("exec: \"no-such-runtime\": executable file not found in $PATH"), "{error}");
    let lab = Lab::new(Runtime::External(PathBuf::from("/no/such/runtime")));
    let error = lab.try_create(&lab.script("true")).err().unwrap();
    assert!(error.to_string().contains("fork/exec /no/such/runtime: no such file or directory"), "{error}");
}
