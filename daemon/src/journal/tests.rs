use model::Namespace;
use model::filter::Filters;
use proto::events::TaskStart;

use super::*;
use crate::events::Bus;

/// A journal over a store in a folder, written to from a bus.
struct Rig {
    dir: tempfile::TempDir,
    bus: Bus,
    journal: Journal,
    running: tokio::task::JoinHandle<()>,
}

impl Rig {
    fn open(dir: tempfile::TempDir, settings: Settings) -> Self {
        let store = Store::open(&dir.path().join("meta"), store::Options::default()).unwrap();
        let journal = Journal::open(store, settings).unwrap();
        let bus = Bus::new();
        let subscription = Journal::listen(&bus);
        let running = tokio::spawn(journal.clone().run(bus.clone(), subscription));
        Self { dir, bus, journal, running }
    }

    fn new(settings: Settings) -> Self {
        Self::open(tempfile::tempdir().unwrap(), settings)
    }

    fn publish(&self, number: u32) {
        let event = TaskStart { container_id: number.to_string(), pid: number };
        self.bus.publish(&Namespace::new("ns").unwrap(), "/tasks/start", &event);
    }

    /// Ends it well.
    async fn close(self) -> tempfile::TempDir {
        self.bus.close();
        self.running.await.unwrap();
        self.dir
    }

    async fn follower(&self, start: Start) -> Follower {
        self.journal.follow(start, everything(), true).await.unwrap()
    }

    /// Waits until an entry with that number is on disk.
    async fn written(&self, number: u64) {
        let mut extent = self.journal.inner.extent.subscribe();
        extent.wait_for(|extent| extent.next > number).await.unwrap();
    }
}

fn everything() -> Filters {
    Filters::parse::<&str>(&[]).unwrap()
}

fn number_of(item: &Item) -> u32 {
    let What::Event(envelope) = &item.what else { panic!("{item:?} is no event") };
    let event: TaskStart = proto::any::unpack(envelope.event.as_ref().unwrap()).unwrap().unwrap();
    event.pid
}

async fn next(follower: &mut Follower) -> Item {
    follower.next().await.unwrap().unwrap()
}

#[tokio::test]
async fn a_follower_goes_on_where_it_was_after_a_restart() {
    let rig = Rig::new(Settings::default());
    let mut follower = rig.follower(Start::Now).await;
    rig.publish(1);
    rig.publish(2);
    let first = next(&mut follower).await;
    assert_eq!(number_of(&first), 1);
    drop(follower);
    rig.publish(3);
    let rig = Rig::open(rig.close().await, Settings::default());
    rig.publish(4);
    let cursor: Cursor = first.cursor.to_string().parse().unwrap();
    let mut follower = rig.follower(Start::Behind(cursor)).await;
    for wanted in 2..=4 {
        assert_eq!(number_of(&next(&mut follower).await), wanted);
    }
    rig.close().await;
    assert!(matches!(follower.next().await, Err(JournalError::Stopping)));
}

#[tokio::test]
async fn a_crash_leaves_a_mark() {
    let rig = Rig::new(Settings::default());
    rig.publish(1);
    rig.written(1).await;
    rig.running.abort();
    let _ = rig.running.await;
    let Rig { dir, journal, .. } = Rig { running: tokio::spawn(async {}), ..rig };
    drop(journal);
    let rig = Rig::open(dir, Settings::default());
    rig.publish(2);
    let mut follower = rig.follower(Start::Oldest).await;
    assert_eq!(number_of(&next(&mut follower).await), 1);
    assert_eq!(next(&mut follower).await.what, What::Gap(Gap::Crash));
    assert_eq!(number_of(&next(&mut follower).await), 2);
    rig.close().await;
}

#[tokio::test]
async fn what_was_dropped_is_said() {
    let rig = Rig::new(Settings { max_events: 10, ..Settings::default() });
    let start = rig.journal.newest();
    for number in 1..=30 {
        rig.publish(number);
    }
    rig.written(30).await;
    let mut follower = rig.follower(Start::Behind(start)).await;
    assert_eq!(next(&mut follower).await.what, What::Gap(Gap::Expired(20)));
    for number in 21..=30 {
        assert_eq!(number_of(&next(&mut follower).await), number);
    }
    let other = Cursor { journal: "other".into(), number: 3 };
    let mut follower = rig.follower(Start::Behind(other)).await;
    assert_eq!(next(&mut follower).await.what, What::Gap(Gap::OtherJournal));
    assert_eq!(number_of(&next(&mut follower).await), 21);
    assert!(rig.journal.extent().bytes > 0);
    rig.close().await;
}

#[tokio::test]
async fn filters_and_times_choose() {
    let rig = Rig::new(Settings::default());
    rig.publish(1);
    rig.written(1).await;
    let between = std::time::SystemTime::now();
    rig.publish(2);
    rig.publish(3);
    rig.written(3).await;
    let filters = Filters::parse(&["event.container_id==3"]).unwrap();
    let mut follower = rig.journal.follow(Start::Since(between), filters, false).await.unwrap();
    assert_eq!(next(&mut follower).await.what, What::Others);
    assert_eq!(number_of(&next(&mut follower).await), 3);
    assert_eq!(follower.next().await.unwrap(), None);
    assert!("x".parse::<Cursor>().is_err() && ".3".parse::<Cursor>().is_err() && "a.b".parse::<Cursor>().is_err());
    rig.close().await;
}

#[tokio::test]
async fn an_event_that_is_too_large_leaves_a_mark() {
    let rig = Rig::new(Settings::default());
    let event = TaskStart { container_id: "x".repeat(2 << 20), pid: 1 };
    rig.bus.publish(&Namespace::new("ns").unwrap(), "/tasks/start", &event);
    let mut follower = rig.follower(Start::Oldest).await;
    assert_eq!(next(&mut follower).await.what, What::Gap(Gap::Overflow(1)));
    rig.close().await;
}
