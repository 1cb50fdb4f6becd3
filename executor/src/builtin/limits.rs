//! Resource limits and priorities of one process, from its part of the spec.

use libcontainer::oci_spec::runtime::{IOPriorityClass, LinuxSchedulerPolicy, Process};
use nix::sys::resource::setrlimit;

use super::bundle::resource;

/// `ioprio_set` on one process.
const PROCESS: i32 = 1;
/// Where the class stands in an I/O priority.
const CLASS_SHIFT: u32 = 13;

/// Sets `process.rlimits`.
pub(super) fn set(process: &Process) -> Result<(), String> {
    for limit in process.rlimits().as_deref().unwrap_or_default() {
        let name = limit.typ().to_string();
        let kind = resource(&name).ok_or_else(|| format!("rlimit {name} is not known"))?;
        setrlimit(kind, limit.soft(), limit.hard())
            .map_err(|errno| format!("error setting rlimit type {name}: {}", errno.desc().to_lowercase()))?;
    }
    Ok(())
}

/// Sets `process.ioPriority` and `process.scheduler`.
pub(super) fn set_priorities(process: &Process) -> Result<(), String> {
    if let Some(priority) = process.io_priority() {
        let class = match priority.class() {
            IOPriorityClass::IoprioClassRt => 1,
            IOPriorityClass::IoprioClassBe => 2,
            IOPriorityClass::IoprioClassIdle => 3,
        };
        let level = u32::try_from(priority.priority()).map_err(|_| "io priority is below 0".to_owned())?;
        crate::sys::set_io_priority(PROCESS, 0, class << CLASS_SHIFT | level)
            .map_err(|errno| format!("set io priority: {}", errno.desc().to_lowercase()))?;
    }
    if let Some(scheduler) = process.scheduler() {
        let policy = match scheduler.policy() {
            LinuxSchedulerPolicy::SchedOther => 0,
            LinuxSchedulerPolicy::SchedFifo => 1,
            LinuxSchedulerPolicy::SchedRr => 2,
            LinuxSchedulerPolicy::SchedBatch => 3,
            LinuxSchedulerPolicy::SchedIso => 4,
            LinuxSchedulerPolicy::SchedIdle => 5,
            LinuxSchedulerPolicy::SchedDeadline => 6,
        };
        let attributes = crate::sys::SchedulerAttributes {
            policy,
            flags: 0,
            nice: scheduler.nice().unwrap_or_default(),
            priority: scheduler.priority().unwrap_or_default().cast_unsigned(),
            runtime: scheduler.runtime().unwrap_or_default(),
            deadline: scheduler.deadline().unwrap_or_default(),
            period: scheduler.period().unwrap_or_default(),
        };
        if scheduler.flags().as_ref().is_some_and(|flags| !flags.is_empty()) {
            return Err("scheduler flags are not supported for exec by the built-in runtime".to_owned());
        }
        crate::sys::set_scheduler(&attributes)
            .map_err(|errno| format!("set scheduler: {}", errno.desc().to_lowercase()))?;
    }
    Ok(())
}
