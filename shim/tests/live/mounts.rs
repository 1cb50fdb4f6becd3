//! Root filesystems that do not answer.

use std::fs::{File, OpenOptions};
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};

use model::Kind;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use proto::task::v3 as wire;
use proto::types::Mount;

use crate::client::Client;
use crate::machine::{Machine, assert_gone, executors};

/// A filesystem whose server never says a word: whoever looks into it waits.
struct Silent {
    path: PathBuf,
    _server: File,
}

impl Silent {
    fn at(path: &Path) -> Option<Self> {
        std::fs::create_dir(path).unwrap();
        let Ok(server) = OpenOptions::new().read(true).write(true).open("/dev/fuse") else {
            eprintln!("skipped: needs /dev/fuse");
            return None;
        };
        let data = format!("fd={},rootmode=40000,user_id=0,group_id=0", server.as_raw_fd());
        mount(Some("silent"), path, Some("fuse"), MsFlags::empty(), Some(data.as_str())).unwrap();
        Some(Self { path: path.to_owned(), _server: server })
    }
}

impl Drop for Silent {
    fn drop(&mut self) {
        umount2(&self.path, MntFlags::MNT_DETACH | MntFlags::MNT_FORCE).unwrap();
    }
}

#[test]
fn a_mount_that_hangs_fails_in_time_and_holds_up_nobody_else() {
    for executor in executors().into_iter().take(1) {
        let mut machine = Machine::new(executor);
        let Some(silent) = Silent::at(&machine.path().join("silent")) else { return };
        let mut container = machine.container(&["true"]);
        let good = container.request.rootfs.clone();
        container.request.rootfs = vec![Mount {
            r#type: "bind".into(),
            source: silent.path.join("root").display().to_string(),
            options: vec!["rbind".into()],
            ..Default::default()
        }];
        let socket = machine.serve_with(&container, &[("GANTRY_SHIM_MOUNT_SECONDS", "1")]);
        let mut client = Client::connect(&socket);
        client.send("Create", &container.request);
        let mut other = Client::connect(&socket);
        assert_eq!(other.state(&container.id, "").unwrap_err().kind, Kind::NotFound, "the loop goes on");
        let twice = other.call::<_, wire::CreateTaskResponse>("Create", &container.request).unwrap_err();
        assert_eq!(twice.kind, Kind::AlreadyExists);
        let refused = client.receive().1.into_result::<wire::CreateTaskResponse>().unwrap_err();
        assert_eq!(refused.kind, Kind::DeadlineExceeded);
        assert!(refused.message.contains("does not answer for 1 s"), "{refused:?}");
        container.request.rootfs = good;
        let _: wire::CreateTaskResponse = client.call("Create", &container.request).unwrap();
        client.delete(&container.id, "").unwrap();
        client.shut_down();
        assert_gone(&container);
    }
}
