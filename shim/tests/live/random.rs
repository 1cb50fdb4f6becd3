//! Random commands against a model small enough to be obviously right.

use std::time::{SystemTime, UNIX_EPOCH};

use model::Kind;
use proto::process::Status;
use proto::status::Failure;
use proto::task::v3 as wire;

use crate::client::Client;
use crate::machine::{Container, Machine, assert_gone, exec_request, executors};

const STEPS: u32 = 500;
const SLOTS: usize = 4;

/// An added process, as it must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Exec {
    None,
    Added,
    Running,
    Stopped,
}

struct World<'a> {
    client: Client,
    container: &'a Container,
    is_paused: bool,
    execs: [Exec; SLOTS],
    /// How many processes of each slot there have been; each gets a name of its own.
    counts: [u32; SLOTS],
    /// Topics of the events that must have been published, in order.
    events: Vec<&'static str>,
}

impl World<'_> {
    fn name(&self, slot: usize) -> String {
        format!("e{slot}-{}", self.counts[slot])
    }

    fn step(&mut self, random: &mut Random) {
        let slot = random.below(SLOTS as u64) as usize;
        let (exec, name) = (self.execs[slot], self.name(slot));
        let id = self.container.id.clone();
        let refused_by_pause = if self.is_paused { Err(Kind::FailedPrecondition) } else { Ok(()) };
        match random.below(8) {
            0 | 1 => {
                let request = exec_request(self.container, &name, &["sleep", "1000"]);
                let got = self.client.call::<_, ()>("Exec", &request);
                let wanted = if exec == Exec::None { refused_by_pause } else { Err(Kind::AlreadyExists) };
                if self.expect("exec", slot, got, wanted) {
                    self.execs[slot] = Exec::Added;
                    self.events.push("/tasks/exec-added");
                }
            }
            2 | 3 => {
                let got = self.client.start(&id, &name);
                let wanted = match exec {
                    Exec::None => Err(Kind::NotFound),
                    Exec::Added => refused_by_pause,
                    Exec::Running | Exec::Stopped => Err(Kind::FailedPrecondition),
                };
                if self.expect("start", slot, got, wanted) {
                    self.execs[slot] = Exec::Running;
                    self.events.push("/tasks/exec-started");
                }
            }
            // A frozen process does not die before it is thawed.
            4 if !self.is_paused => {
                let got = self.client.kill(&id, &name, 9);
                let wanted = match exec {
                    Exec::None | Exec::Stopped => Err(Kind::NotFound),
                    Exec::Added => Err(Kind::FailedPrecondition),
                    Exec::Running => Ok(()),
                };
                if self.expect("kill", slot, got, wanted) {
                    assert_eq!(self.client.wait(&id, &name).unwrap(), 137);
                    self.execs[slot] = Exec::Stopped;
                    self.events.push("/tasks/exit");
                }
            }
            5 => {
                let got = self.client.delete(&id, &name);
                let wanted = match exec {
                    Exec::None => Err(Kind::NotFound),
                    Exec::Added | Exec::Stopped => Ok(()),
                    Exec::Running => Err(Kind::FailedPrecondition),
                };
                if self.expect("delete", slot, got, wanted) {
                    self.execs[slot] = Exec::None;
                    self.counts[slot] += 1;
                }
            }
            6 => {
                let pause = random.below(2) == 0;
                let got = if pause {
                    self.client.call::<_, ()>("Pause", &wire::PauseRequest { id })
                } else {
                    self.client.call::<_, ()>("Resume", &wire::ResumeRequest { id })
                };
                let wanted = if pause == self.is_paused { Err(Kind::FailedPrecondition) } else { Ok(()) };
                if self.expect("pause or resume", slot, got, wanted) {
                    self.is_paused = pause;
                    self.events.push(if pause { "/tasks/paused" } else { "/tasks/resumed" });
                }
            }
            _ => self.check(slot),
        }
    }

    /// Whether the command was carried out, as it must have been or not.
    #[track_caller]
    fn expect<T>(&self, what: &str, slot: usize, got: Result<T, Failure>, wanted: Result<(), Kind>) -> bool {
        let got = got.map(drop).map_err(|failure| (failure.kind, failure.message));
        let kind = got.as_ref().err().map(|(kind, _)| *kind);
        assert_eq!(kind, wanted.err(), "{what} of {slot} in {:?}, paused: {}: {got:?}", self.execs, self.is_paused);
        wanted.is_ok()
    }

    fn check(&mut self, slot: usize) {
        let (id, name) = (self.container.id.clone(), self.name(slot));
        let state = self.client.state(&id, &name).map(|state| state.status());
        let wanted = match self.execs[slot] {
            Exec::None => None,
            Exec::Added => Some(Status::Created),
            Exec::Running => Some(Status::Running),
            Exec::Stopped => Some(Status::Stopped),
        };
        assert_eq!(state.ok(), wanted);
        let init = self.client.state(&id, "").unwrap().status();
        assert_eq!(init, if self.is_paused { Status::Paused } else { Status::Running });
        let pids: wire::PidsResponse = self.client.call("Pids", &wire::PidsRequest { id }).unwrap();
        let running = self.execs.iter().filter(|exec| **exec == Exec::Running).count();
        assert_eq!(pids.processes.len(), running + 1);
        assert_eq!(pids.processes.iter().filter(|process| process.info.is_some()).count(), running);
    }
}

/// Numbers without pattern, the same for the same seed (xorshift).
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

#[test]
fn whatever_is_asked_the_answer_is_the_models() {
    let seed = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok());
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as u64 | 1;
    let seed = seed.unwrap_or(now);
    eprintln!("SEED={seed} repeats this run");
    for executor in executors() {
        let mut machine = Machine::new(executor);
        let container = machine.container(&["sleep", "1000"]);
        let mut client = machine.create(&container);
        client.start(&container.id, "").unwrap();
        let mut world = World {
            client,
            container: &container,
            is_paused: false,
            execs: [Exec::None; SLOTS],
            counts: [0; SLOTS],
            events: vec!["/tasks/create", "/tasks/start"],
        };
        let mut random = Random(seed);
        for _ in 0..STEPS {
            world.step(&mut random);
        }
        let World { mut client, execs, mut events, .. } = world;
        client.kill(&container.id, "", 9).unwrap();
        assert_eq!(client.wait(&container.id, "").unwrap(), 137);
        client.delete(&container.id, "").unwrap();
        let dying = execs.iter().filter(|exec| **exec == Exec::Running).count();
        events.extend(["/tasks/exit"].repeat(dying + 1));
        events.push("/tasks/delete");
        assert_eq!(machine.daemon.topics("/tasks/delete"), events, "{executor}");
        client.shut_down();
        assert_gone(&container);
    }
}
