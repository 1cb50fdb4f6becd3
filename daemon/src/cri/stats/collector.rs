//! One pass over all cgroups, shared by all who ask at the same time, and what is kept between passes.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::files::Buffer;
use super::sample::Sample;
use super::{v1, v2};

/// A pass is good for so long; callers within it share it.
const FRESH: Duration = Duration::from_millis(900);
/// A rate is over no less than this, or noise is read as load.
const SHORTEST_RATE: Duration = Duration::from_millis(100);
/// A rate is over no more than this: an old reading says nothing of now.
const LONGEST_RATE: Duration = Duration::from_secs(120);

/// From so many cgroups on a pass is shared by several threads.
const WORTH_A_THREAD: usize = 128;
/// The most threads of a pass.
const MOST_THREADS: usize = 4;

/// A cgroup to be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Whose it is: the id of a container or pod.
    pub id: String,
    /// Its path below the root of its hierarchies.
    pub cgroup: PathBuf,
}

/// How much is read of each cgroup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Detail {
    /// What stats need, asked every few seconds: processor time, memory and its limit, tasks, pressure. The rest stays zero.
    Stats,
    /// All of it, for metrics.
    Metrics,
}

/// What one pass has read, by id.
#[derive(Debug, Default)]
pub struct Pass {
    /// The samples of all targets whose cgroups were there.
    pub samples: HashMap<String, Sample>,
}

/// An earlier reading of a cgroup's processor time.
#[derive(Debug, Clone, Copy)]
struct Reading {
    at: Instant,
    usage_ns: u64,
    nano_cores: Option<u64>,
}

#[derive(Debug, Default)]
struct Kept {
    stats: Option<(Instant, Arc<Pass>)>,
    metrics: Option<(Instant, Arc<Pass>)>,
    readings: HashMap<String, Reading>,
}

/// Reads cgroups. It blocks: to be used off the async threads.
#[derive(Debug)]
pub struct Collector {
    root: PathBuf,
    unified: bool,
    huge_page_sizes: Vec<String>,
    kept: Mutex<Kept>,
}

impl Collector {
    /// Reads below `root`, where a machine mounts its cgroups (`/sys/fs/cgroup`).
    pub fn new(root: impl Into<PathBuf>) -> Self {
        let root = root.into();
        let unified = root.join("cgroup.controllers").exists();
        Self { huge_page_sizes: huge_page_sizes(&root, unified), unified, root, kept: Mutex::default() }
    }

    /// Whether the machine has one v2 hierarchy.
    pub fn unified(&self) -> bool {
        self.unified
    }

    /// The folder that holds the processes of a cgroup.
    pub fn folder(&self, cgroup: &Path) -> PathBuf {
        match self.unified {
            true => self.root.join(cgroup.strip_prefix("/").unwrap_or(cgroup)),
            false => v1::folder(&self.root, "memory", cgroup),
        }
    }

    /// A reading of all targets no older than a second. Those who ask while one is under way wait for it and share it.
    ///
    /// `targets` is asked only when a new pass is made.
    pub fn pass(&self, detail: Detail, targets: impl FnOnce() -> Vec<Target>) -> Arc<Pass> {
        // The lock is held for the whole pass: that is what makes the others wait and share.
        let mut kept = self.kept.lock().expect("nobody panics with it held");
        let last = match detail {
            Detail::Stats => &kept.stats,
            Detail::Metrics => &kept.metrics,
        };
        if let Some((at, pass)) = last
            && at.elapsed() < FRESH
        {
            return pass.clone();
        }
        let mut samples = self.read_all(&targets(), detail);
        let now = Instant::now();
        let before = std::mem::take(&mut kept.readings);
        for (id, sample) in &mut samples {
            let reading = rate(before.get(id), now, sample.cpu.usage_ns);
            sample.cpu.nano_cores = reading.nano_cores;
            kept.readings.insert(id.clone(), reading);
        }
        let pass = Arc::new(Pass { samples });
        let slot = match detail {
            Detail::Stats => &mut kept.stats,
            Detail::Metrics => &mut kept.metrics,
        };
        *slot = Some((now, pass.clone()));
        pass
    }

    /// A reading of one cgroup now, for somebody whose container may be younger than the last pass.
    pub fn one(&self, target: &Target) -> Option<Sample> {
        let mut sample = self.read(&target.cgroup, Detail::Metrics, &mut Buffer::new())?;
        let kept = self.kept.lock().expect("nobody panics with it held");
        sample.cpu.nano_cores = rate(kept.readings.get(&target.id), Instant::now(), sample.cpu.usage_ns).nano_cores;
        Some(sample)
    }

    fn read(&self, cgroup: &Path, detail: Detail, buffer: &mut Buffer) -> Option<Sample> {
        match self.unified {
            true => v2::read(&self.folder(cgroup), detail, &self.huge_page_sizes, buffer),
            false => v1::read(&self.root, cgroup, detail, &self.huge_page_sizes, buffer),
        }
    }

    fn read_all(&self, targets: &[Target], detail: Detail) -> HashMap<String, Sample> {
        let read = |targets: &[Target]| -> Vec<(String, Sample)> {
            let mut buffer = Buffer::new();
            let one = |target: &Target| Some((target.id.clone(), self.read(&target.cgroup, detail, &mut buffer)?));
            targets.iter().filter_map(one).collect()
        };
        if targets.len() < WORTH_A_THREAD {
            return read(targets).into_iter().collect();
        }
        let readers = std::thread::available_parallelism().map_or(1, usize::from).min(MOST_THREADS);
        let shares: Vec<&[Target]> = targets.chunks(targets.len().div_ceil(readers)).collect();
        std::thread::scope(|scope| {
            let reading: Vec<_> = shares.iter().map(|share| scope.spawn(|| read(share))).collect();
            reading.into_iter().flat_map(|share| share.join().expect("reading files does not panic")).collect()
        })
    }
}

/// A new reading after an earlier one.
fn rate(before: Option<&Reading>, at: Instant, usage_ns: u64) -> Reading {
    let Some(before) = before else { return Reading { at, usage_ns, nano_cores: None } };
    let passed = at.saturating_duration_since(before.at);
    if passed < SHORTEST_RATE {
        return *before;
    }
    let used = usage_ns.checked_sub(before.usage_ns).filter(|_| passed <= LONGEST_RATE);
    let per_second = |used: u64| u128::from(used) * 1_000_000_000 / passed.as_nanos();
    Reading { at, usage_ns, nano_cores: used.and_then(|used| u64::try_from(per_second(used)).ok()) }
}

/// The sizes of huge pages that the machine accounts for, as the names of files say.
fn huge_page_sizes(root: &Path, unified: bool) -> Vec<String> {
    let (folder, suffix) = match unified {
        // The root of the hierarchy has none of these files, its children do.
        true => (root.join("system.slice"), ".current"),
        false => (root.join("hugetlb"), ".usage_in_bytes"),
    };
    let names = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let size = |name: &str| Some(name.strip_prefix("hugetlb.")?.strip_suffix(suffix)?.to_owned());
    let mut sizes: Vec<String> = names.filter_map(|entry| size(entry.file_name().to_str()?)).collect();
    sizes.retain(|size| !size.contains('.'));
    sizes.sort();
    sizes
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::{Reading, rate};

    #[test]
    fn rates_are_over_a_sensible_time() {
        let start = Instant::now();
        let first = rate(None, start, 1_000_000_000);
        assert_eq!(first.nano_cores, None);
        let second = rate(Some(&first), start + Duration::from_secs(2), 2_000_000_000);
        assert_eq!(second.nano_cores, Some(500_000_000));
        let soon = rate(Some(&second), start + Duration::from_millis(2050), 3_000_000_000);
        assert_eq!((soon.nano_cores, soon.usage_ns), (Some(500_000_000), 2_000_000_000));
        assert_eq!(rate(Some(&second), start + Duration::from_secs(600), 3_000_000_000).nano_cores, None);
        let recreated = Reading { nano_cores: None, ..second };
        assert_eq!(rate(Some(&recreated), start + Duration::from_secs(3), 0).nano_cores, None);
    }
}
