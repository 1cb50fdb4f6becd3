//! Named points at which a test lets the process end as if it were killed: between any two durable steps.
//!
//! `GANTRY_FAILPOINT=name:n` ends it when it comes to the point `name` for the nth time. Programs that are built for use have no such
//! points: the calls are empty there.

/// A point between two durable steps.
#[cfg(not(debug_assertions))]
#[inline(always)]
pub fn failpoint(_name: &str) {}

/// A point between two durable steps.
#[cfg(debug_assertions)]
pub fn failpoint(name: &str) {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU32, Ordering};

    static WANTED: OnceLock<Option<(String, u32)>> = OnceLock::new();
    static PASSED: AtomicU32 = AtomicU32::new(0);

    let wanted = WANTED.get_or_init(|| {
        let text = std::env::var("GANTRY_FAILPOINT").ok()?;
        let (name, count) = text.split_once(':')?;
        Some((name.to_owned(), count.parse().ok()?))
    });
    if let Some((point, count)) = wanted
        && point == name
        && PASSED.fetch_add(1, Ordering::Relaxed) + 1 == *count
    {
        tracing::error!(point, "ended at a failpoint");
        // As by `kill -9`: nothing is flushed, nothing is dropped.
        let own = rustix::process::getpid();
        let _ = rustix::process::kill_process(own, rustix::process::Signal::KILL);
    }
}
