//! What an executor is known to lack, in one table: the README's table of executors shows the same lines. A case named here
//! must fail with that executor; one that passes has to be taken out.

/// One case that one executor does not pass.
#[derive(Debug, Clone, Copy)]
pub struct Lack {
    /// The program.
    pub executor: &'static str,
    /// The function of [`cases`](super::cases).
    pub case: &'static str,
    /// What it lacks, for people.
    pub what: &'static str,
}

const fn lack(executor: &'static str, case: &'static str, what: &'static str) -> Lack {
    Lack { executor, case, what }
}

/// The table.
pub const LACKS: &[Lack] = &[
    lack("runc", "a_time_namespace_has_its_offsets", "time namespaces (runc before 1.2)"),
    lack("runc", "the_scheduler_is_as_asked", "process.scheduler (runc before 1.2)"),
    lack("runc", "the_io_priority_is_as_asked", "process.ioPriority (runc before 1.2)"),
    lack("runc", "an_idmapped_mount_shows_other_owners", "idmapped mounts (runc before 1.2)"),
    lack("runc", "a_personality_is_as_asked", "linux.personality (runc before 1.2)"),
    lack("runc", "a_user_namespace_is_joined_by_path", "user namespaces by path without mappings (runc before 1.2)"),
    lack("runc", "the_root_propagates_as_asked", "rootfsPropagation shared where the host's root is private"),
    lack("builtin", "an_idmapped_mount_shows_other_owners", "idmapped mounts"),
];

/// Runs a case, or makes sure that it fails where the table says so.
///
/// # Panics
/// When the case does, or when it passes against the table.
pub fn run(executor: &str, name: &str, case: impl FnOnce() + std::panic::UnwindSafe) {
    match LACKS.iter().find(|lack| lack.executor == executor && lack.case == name) {
        None => case(),
        Some(lack) => {
            assert!(
                std::panic::catch_unwind(case).is_err(),
                "{executor} passes {name}: it does not lack {} any more",
                lack.what
            );
            eprintln!("{executor} lacks {}", lack.what);
        }
    }
}
