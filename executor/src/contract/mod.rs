//! The tests that every executor passes. They really run containers: root is needed, and Debian's static busybox.
//!
//! A test file calls [`executor_contract!`](crate::executor_contract) with an expression for the [`Runtime`](crate::Runtime);
//! each function of [`cases`] and [`hostile`] becomes one test. A case knows nothing of the executor behind the trait.

pub mod cases;
pub mod hostile;
mod lab;
pub mod lacks;
mod spec;

pub use lab::{Container, Lab, Ran, Streams};
pub use spec::plain_spec;

/// Where Debian's package `busybox-static` puts it.
pub const BUSYBOX: &str = "/bin/busybox";

/// Weaknesses of other people's runtimes: a case that a known version does not pass is reported, not hidden and not an
/// error of ours. Any other case must pass.
pub fn survive_hostile_cases(runtime: &crate::Runtime, known_weak: &[&str]) -> Vec<&'static str> {
    let mut failed = Vec::new();
    for (name, case) in hostile::ALL {
        let lab = Lab::new(runtime.clone());
        if std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| case(&lab))).is_err() {
            assert!(known_weak.contains(&name), "{runtime:?} does not survive {name}");
            eprintln!("{runtime:?} does not survive {name}, which is known");
            failed.push(name);
        }
    }
    failed
}

/// One test per case of [`contract::cases`](crate::contract::cases), in a module of the given name; `hostile` in front
/// gives those of [`contract::hostile`](crate::contract::hostile). The module's name is the executor's in the table of
/// what executors [lack](crate::contract::lacks).
#[macro_export]
macro_rules! executor_contract {
    (hostile $module:ident, $runtime:expr) => {
        $crate::executor_contract!(@module hostile, $module, $runtime,
            a_redirected_proc_is_harmless, a_proc_that_is_no_procfs_is_noticed, a_redirected_dev_is_harmless,
            devices_are_not_made_through_a_redirected_dev, a_mount_target_behind_a_link_stays_inside,
            a_false_dev_null_unmasks_nothing, a_linked_working_folder_stays_inside,
            a_relative_root_is_taken_from_the_bundle,
        );
    };
    ($module:ident, $runtime:expr) => {
        $crate::executor_contract!(@module cases, $module, $runtime,
            a_created_container_waits_for_start, exit_code_is_the_programs, signals_reach_the_init,
            killing_all_reaches_children_of_a_dead_init, exec_runs_beside_the_init, exec_has_its_own_process_settings,
            user_groups_environment_and_folder_are_as_asked, standard_streams_belong_to_the_user,
            a_terminal_comes_through_the_console_socket, an_exec_terminal_comes_through_the_console_socket,
            namespaces_are_new_or_joined_by_path, a_cgroup_namespace_hides_where_it_is, a_read_only_root_refuses_writes, hidden_paths_are_hidden,
            the_memory_limit_kills_and_is_noticed, the_pids_limit_holds, resource_limits_are_set,
            no_descriptor_of_the_host_is_inherited, no_capability_is_inheritable_or_ambient,
            a_missing_program_is_named, a_missing_program_of_exec_is_named, delete_refuses_a_running_container,
            delete_leaves_nothing_behind, pause_stops_the_clock, update_changes_limits, ps_lists_the_processes,
            hooks_are_run_with_the_state, sysctls_are_set, a_malformed_user_is_an_error, ids_are_unique,
            the_working_folder_cannot_leave_the_root, the_runtimes_file_cannot_be_written,
            unknown_containers_are_not_found, no_new_privileges_is_as_asked, mounts_are_made, a_seccomp_filter_holds,
            signals_have_their_defaults, a_user_namespace_maps_users, a_user_namespace_is_joined_by_path,
            an_idmapped_mount_shows_other_owners, a_time_namespace_has_its_offsets, the_scheduler_is_as_asked,
            the_io_priority_is_as_asked, a_personality_is_as_asked, score_and_umask_are_as_asked,
            mounts_propagate_as_asked, the_root_propagates_as_asked, options_of_mounts_hold, the_cpu_quota_throttles,
            labels_that_the_kernel_lacks_are_refused, six_kinds_of_hooks_are_run_in_order,
            a_failing_hook_of_create_fails_it,
        );
    };
    (@module $cases:ident, $module:ident, $runtime:expr, $($case:ident),* $(,)?) => {
        mod $module {
            #[allow(unused_imports, reason = "the expression may name what the file has in scope")]
            use super::*;

            $(#[test]
            fn $case() {
                $crate::contract::lacks::run(stringify!($module), stringify!($case), || {
                    $crate::contract::$cases::$case(&$crate::contract::Lab::new($runtime));
                });
            })*
        }
    };
}
