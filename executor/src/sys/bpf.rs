//! `bpf(2)` as far as device programs of a cgroup need it: load, attach, list, open by id, detach.

use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

use nix::errno::Errno;

use crate::cgroup::DeviceInstruction;

// The kernel's numbers (`linux/bpf.h`).
const PROG_LOAD: i32 = 5;
const PROG_ATTACH: i32 = 8;
const PROG_DETACH: i32 = 9;
const PROG_GET_FD_BY_ID: i32 = 13;
const PROG_QUERY: i32 = 16;
const TYPE_CGROUP_DEVICE: u32 = 15;
const ATTACH_CGROUP_DEVICE: u32 = 6;
const ALLOW_MULTI: u32 = 2;
/// The kernel allows as many on one cgroup.
const MAX_PROGRAMS: usize = 64;

/// The part of `union bpf_attr` that one command reads, as words; unused ones are zero.
type Attributes = [u32; 32];

fn call(command: i32, attributes: &mut Attributes) -> nix::Result<i32> {
    // SAFETY: the kernel reads and writes at most the given number of bytes of the array, which outlives the call; pointers
    // in it are put there by the callers, to memory that outlives the call too.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, attributes.as_mut_ptr(), size_of::<Attributes>()) };
    Errno::result(result).map(|value| i32::try_from(value).unwrap_or_default())
}

/// Halves of a pointer, in the order of the machine's memory.
fn pointer(address: usize) -> [u32; 2] {
    let bytes = (address as u64).to_ne_bytes();
    let half = |from: usize| u32::from_ne_bytes([bytes[from], bytes[from + 1], bytes[from + 2], bytes[from + 3]]);
    [half(0), half(4)]
}

fn descriptor(fd: &impl AsFd) -> u32 {
    fd.as_fd().as_raw_fd().cast_unsigned()
}

fn owned(fd: i32) -> OwnedFd {
    // SAFETY: the kernel has just given us this descriptor, and nobody else knows it.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// Loads a device program; it lives as long as the descriptor, or as it is attached.
pub(crate) fn load(program: &[DeviceInstruction]) -> nix::Result<OwnedFd> {
    let mut attributes: Attributes = [0; 32];
    attributes[0] = TYPE_CGROUP_DEVICE;
    attributes[1] = u32::try_from(program.len()).map_err(|_| Errno::E2BIG)?;
    [attributes[2], attributes[3]] = pointer(program.as_ptr() as usize);
    // No function of the kernel is called that would ask for another licence.
    [attributes[4], attributes[5]] = pointer(c"MIT".as_ptr() as usize);
    call(PROG_LOAD, &mut attributes).map(owned)
}

/// Puts a program on a cgroup, beside those that are there.
pub(crate) fn attach(cgroup: &impl AsFd, program: &OwnedFd) -> nix::Result<()> {
    let mut attributes: Attributes = [0; 32];
    attributes[..4].copy_from_slice(&[descriptor(cgroup), descriptor(program), ATTACH_CGROUP_DEVICE, ALLOW_MULTI]);
    call(PROG_ATTACH, &mut attributes).map(drop)
}

/// Takes a program off.
pub(crate) fn detach(cgroup: &impl AsFd, program: &OwnedFd) -> nix::Result<()> {
    let mut attributes: Attributes = [0; 32];
    attributes[..3].copy_from_slice(&[descriptor(cgroup), descriptor(program), ATTACH_CGROUP_DEVICE]);
    call(PROG_DETACH, &mut attributes).map(drop)
}

/// The ids of the device programs on a cgroup itself.
pub(crate) fn attached(cgroup: &impl AsFd) -> nix::Result<Vec<u32>> {
    let mut ids = [0_u32; MAX_PROGRAMS];
    let mut attributes: Attributes = [0; 32];
    attributes[..2].copy_from_slice(&[descriptor(cgroup), ATTACH_CGROUP_DEVICE]);
    [attributes[4], attributes[5]] = pointer(ids.as_mut_ptr() as usize);
    attributes[6] = u32::try_from(MAX_PROGRAMS).expect("a small constant");
    call(PROG_QUERY, &mut attributes)?;
    let count = usize::try_from(attributes[6]).unwrap_or_default().min(MAX_PROGRAMS);
    Ok(ids[..count].to_vec())
}

/// A program that is loaded already.
pub(crate) fn open(id: u32) -> nix::Result<OwnedFd> {
    let mut attributes: Attributes = [0; 32];
    attributes[0] = id;
    call(PROG_GET_FD_BY_ID, &mut attributes).map(owned)
}
