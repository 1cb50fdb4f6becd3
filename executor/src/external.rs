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
