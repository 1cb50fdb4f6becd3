//! runc, crun and youki by the OCI command line they share. No guessing from their texts happens here.

use std::ffi::OsString;
use std::path::PathBuf;

use crate::criu::{self, Checkpoint, Restore};
use crate::{Create, Exec, Executor, ExecutorError, Invocation, Runtime, Settings, Verb};

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

    /// What `create` and `restore` share.
    fn create_options(&self, invocation: &mut Invocation, create: &Create) {
        let args = &mut invocation.args;
        args.extend([OsString::from("--bundle"), create.bundle.clone().into()]);
        args.extend([OsString::from("--pid-file"), create.pid_file.clone().into()]);
        if let Some(socket) = &create.console_socket {
            args.extend([OsString::from("--console-socket"), socket.clone().into()]);
        }
        if self.settings.no_pivot_root {
            args.push("--no-pivot".into());
        }
        invocation.cwd = Some(create.bundle.clone());
    }

    fn is_crun(&self) -> bool {
        matches!(&self.settings.runtime, Runtime::External(program) if program.file_name().is_some_and(|name| name == "crun"))
    }

    /// Whether this executor can save and restore, on this machine.
    fn check_criu(&self, verb: Verb) -> Result<(), ExecutorError> {
        const INSTEAD: &str = "runtime options that name runc (BinaryName) can do it";
        match self.settings.runtime {
            Runtime::BuiltIn => {
                Err(ExecutorError::Unsupported { verb, executor: "the built-in executor", instead: INSTEAD })
            }
            Runtime::External(_) if !criu::is_installed(std::env::var_os("PATH").as_deref()) => {
                Err(ExecutorError::NoCriu { verb })
            }
            Runtime::External(_) => Ok(()),
        }
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
        self.create_options(&mut invocation, create);
        if self.settings.no_new_keyring {
            invocation.args.push("--no-new-keyring".into());
        }
        invocation.args.push(create.id.clone().into());
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

    fn checkpoint(&self, checkpoint: &Checkpoint) -> Result<Invocation, ExecutorError> {
        self.check_criu(Verb::Checkpoint)?;
        let mut invocation = self.invocation(Verb::Checkpoint);
        invocation.args.extend(checkpoint.words());
        Ok(invocation)
    }

    fn restore(&self, restore: &Restore) -> Result<Invocation, ExecutorError> {
        self.check_criu(Verb::Restore)?;
        let mut invocation = self.invocation(Verb::Restore);
        self.create_options(&mut invocation, &restore.create);
        invocation.args.extend(restore.words());
        // As the shim contract has it: the shim is the subreaper, not the runtime. crun knows no such option.
        if !self.is_crun() {
            invocation.args.push("--no-subreaper".into());
        }
        invocation.args.push(restore.create.id.clone().into());
        Ok(invocation)
    }
}

fn words<const N: usize>(words: [&str; N]) -> Vec<OsString> {
    words.map(OsString::from).to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::criu::CriuOptions;

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
    fn what_criu_is_to_do_is_said_with_the_flags_of_runc() {
        let options = CriuOptions {
            open_tcp: true,
            external_unix_sockets: true,
            terminal: true,
            file_locks: true,
            lazy_pages: false,
            empty_namespaces: vec!["network".into()],
            cgroups_mode: "soft".into(),
        };
        let checkpoint = Checkpoint {
            id: "c".into(),
            image_path: "/i".into(),
            work_path: Some("/w".into()),
            parent_path: Some("../p".into()),
            leave_running: true,
            options: options.clone(),
        };
        let flags =
            "--tcp-established --ext-unix-sk --shell-job --file-locks --manage-cgroups-mode soft --empty-ns network";
        let join = |words: Vec<OsString>| words.join(" ".as_ref()).into_string().unwrap();
        assert_eq!(
            join(checkpoint.words()),
            format!("--image-path /i --work-path /w --parent-path ../p --leave-running {flags} c")
        );
        let create =
            Create { id: "c".into(), bundle: "/b".into(), pid_file: "/b/init.pid".into(), console_socket: None };
        let restore = Restore { create, image_path: "/i".into(), work_path: None, options };
        assert_eq!(join(restore.words()), format!("--image-path /i --detach {flags}"));
        assert_eq!(join(Checkpoint { id: "c".into(), ..Checkpoint::default() }.words()), "--image-path  c");
    }

    #[test]
    fn without_criu_or_with_the_built_in_executor_nothing_is_started() {
        let builtin = External::new(settings(Runtime::BuiltIn)).checkpoint(&Checkpoint::default()).unwrap_err();
        assert!(
            matches!(builtin, ExecutorError::Unsupported { verb: Verb::Checkpoint, .. })
                && builtin.to_string().contains("runc"),
            "{builtin}"
        );
        let none = ExecutorError::NoCriu { verb: Verb::Restore };
        assert_eq!(none.to_string(), "restore needs the program \"criu\": executable file not found in $PATH");
        let folder = tempfile::tempdir().unwrap();
        let path = Some(folder.path().as_os_str());
        assert!(!criu::is_installed(path));
        std::fs::write(folder.path().join(criu::CRIU), "").unwrap();
        assert!(!criu::is_installed(path), "a file that nobody may execute is no program");
        std::fs::set_permissions(folder.path().join(criu::CRIU), std::os::unix::fs::PermissionsExt::from_mode(0o755))
            .unwrap();
        assert!(criu::is_installed(path));
    }

    #[test]
    fn the_built_in_runtime_is_this_program_wherever_its_file_went() {
        let builtin = External::new(settings(Runtime::BuiltIn));
        assert!(line(&builtin.state("c")).starts_with("/proc/self/exe runtime --root /run/r/ns "));
    }
}
