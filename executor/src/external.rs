//! runc, crun and youki by the OCI command line they share. No guessing from their texts happens here.

use std::ffi::OsString;
use std::path::PathBuf;

use crate::{Create, Exec, Executor, Invocation, Runtime, Settings, Verb};

/// An executor that is a program with the OCI command line; the built-in one is our own program.
#[derive(Debug, Clone)]
pub struct External {
    settings: Settings,
}

impl External {
    /// An executor with these settings.
    pub fn new(settings: Settings) -> Self {
        Self { settings }
    }

    /// `<program> <global options> <verb>`; what follows is the verb's own.
    fn invocation(&self, verb: Verb) -> Invocation {
        let settings = &self.settings;
        let (program, mut args) = match &settings.runtime {
            // Not the path of the file: it may have been replaced or deleted since this process started.
            Runtime::BuiltIn => (PathBuf::from("/proc/self/exe"), words(["runtime"])),
            Runtime::External(program) => (program.clone(), Vec::new()),
        };
        args.extend([OsString::from("--root"), settings.root.clone().into()]);
        args.extend([OsString::from("--log"), settings.log.clone().into()]);
        args.extend(words(["--log-format", "json"]));
        if settings.debug {
            args.extend(words(["--debug"]));
        }
        if settings.systemd_cgroup {
            args.extend(words(["--systemd-cgroup"]));
        }
        args.push(verb.name().into());
        let deadline = verb.deadline();
        Invocation { verb, program, args, env: Vec::new(), cwd: None, stdin: None, log: settings.log.clone(), deadline }
    }

    fn on(&self, verb: Verb, id: &str) -> Invocation {
        let mut invocation = self.invocation(verb);
        invocation.args.push(id.into());
        invocation
    }
}

impl Executor for External {
    fn create(&self, create: &Create) -> Invocation {
        let mut invocation = self.invocation(Verb::Create);
        let args = &mut invocation.args;
        args.extend([OsString::from("--bundle"), create.bundle.clone().into()]);
        args.extend([OsString::from("--pid-file"), create.pid_file.clone().into()]);
        if let Some(socket) = &create.console_socket {
            args.extend([OsString::from("--console-socket"), socket.clone().into()]);
        }
        if self.settings.no_pivot_root {
            args.push("--no-pivot".into());
        }
        if self.settings.no_new_keyring {
            args.push("--no-new-keyring".into());
        }
        args.push(create.id.clone().into());
        invocation.cwd = Some(create.bundle.clone());
        invocation
    }

    fn start(&self, id: &str) -> Invocation {
        self.on(Verb::Start, id)
    }

    fn kill(&self, id: &str, signal: i32, all: bool) -> Invocation {
        let mut invocation = self.invocation(Verb::Kill);
        if all {
            invocation.args.push("--all".into());
        }
        invocation.args.extend([OsString::from(id), signal.to_string().into()]);
        invocation
    }

    fn delete(&self, id: &str, force: bool) -> Invocation {
        let mut invocation = self.invocation(Verb::Delete);
        if force {
            invocation.args.push("--force".into());
        }
        invocation.args.push(id.into());
        invocation
    }

    fn exec(&self, exec: &Exec) -> Invocation {
        let mut invocation = self.invocation(Verb::Exec);
        let args = &mut invocation.args;
        args.extend([OsString::from("--process"), exec.process_json.clone().into()]);
        if let Some(socket) = &exec.console_socket {
            args.extend([OsString::from("--console-socket"), socket.clone().into()]);
        }
        args.push("--detach".into());
        args.extend([OsString::from("--pid-file"), exec.pid_file.clone().into()]);
        args.push(exec.id.clone().into());
        invocation
    }

    fn pause(&self, id: &str) -> Invocation {
        self.on(Verb::Pause, id)
    }

    fn resume(&self, id: &str) -> Invocation {
        self.on(Verb::Resume, id)
    }

    fn update(&self, id: &str, resources: Vec<u8>) -> Invocation {
        let mut invocation = self.invocation(Verb::Update);
        invocation.args.extend(words(["--resources", "-", id]));
        invocation.stdin = Some(resources);
        invocation
    }

    fn ps(&self, id: &str) -> Invocation {
        let mut invocation = self.invocation(Verb::Ps);
        invocation.args.extend(words(["--format", "json", id]));
        invocation
    }

    fn state(&self, id: &str) -> Invocation {
        self.on(Verb::State, id)
    }

    fn features(&self) -> Invocation {
        self.invocation(Verb::Features)
    }
}

fn words<const N: usize>(words: [&str; N]) -> Vec<OsString> {
    words.map(OsString::from).to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(runtime: Runtime) -> Settings {
        Settings {
            runtime,
            root: "/run/r/ns".into(),
            systemd_cgroup: true,
            no_pivot_root: true,
            no_new_keyring: false,
            log: "/b/log.json".into(),
            debug: false,
        }
    }

    fn line(invocation: &Invocation) -> String {
        let words = invocation.args.iter().map(|word| word.to_str().unwrap().to_owned());
        [invocation.program.display().to_string()].into_iter().chain(words).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn command_lines_are_those_that_runc_crun_and_youki_share() {
        let runc = External::new(settings(Runtime::External("runc".into())));
        let create = Create {
            id: "c".into(),
            bundle: "/b".into(),
            pid_file: "/b/init.pid".into(),
            console_socket: Some("/s".into()),
        };
        let exec = Exec {
            id: "c".into(),
            process_json: "/b/e.json".into(),
            pid_file: "/b/e.pid".into(),
            console_socket: None,
        };
        let global = "runc --root /run/r/ns --log /b/log.json --log-format json --systemd-cgroup";
        for (invocation, rest) in [
            (runc.create(&create), "create --bundle /b --pid-file /b/init.pid --console-socket /s --no-pivot c"),
            (runc.start("c"), "start c"),
            (runc.exec(&exec), "exec --process /b/e.json --detach --pid-file /b/e.pid c"),
            (runc.kill("c", 15, false), "kill c 15"),
            (runc.kill("c", 9, true), "kill --all c 9"),
            (runc.delete("c", true), "delete --force c"),
            (runc.update("c", b"{}".to_vec()), "update --resources - c"),
            (runc.ps("c"), "ps --format json c"),
            (runc.features(), "features"),
        ] {
            assert_eq!(line(&invocation), format!("{global} {rest}"));
        }
        assert_eq!(runc.update("c", b"{}".to_vec()).stdin.as_deref(), Some(&b"{}"[..]));
    }

    #[test]
    fn the_built_in_runtime_is_this_program_wherever_its_file_went() {
        let builtin = External::new(settings(Runtime::BuiltIn));
        assert!(line(&builtin.state("c")).starts_with("/proc/self/exe runtime --root /run/r/ns "));
    }
}
