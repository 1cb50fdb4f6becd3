//! Connects to a port on the localhost of another network namespace.

use std::fs::File;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::path::Path;
use std::time::Duration;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// How long a server on the same machine may take to accept.
const CONNECTING: Duration = Duration::from_secs(10);

/// A connection to `port` on localhost, IPv4 first, inside the namespace at `netns`, or in this one if there is none.
///
/// A network namespace belongs to a thread, and a socket to the namespace it was made in: a thread of its own enters the namespace,
/// connects, and ends. No other thread notices.
///
/// # Errors
/// The namespace cannot be entered, or nobody accepts. The text says which.
pub fn localhost(netns: Option<&Path>, port: u16) -> io::Result<TcpStream> {
    let Some(path) = netns else { return connect(port) };
    let namespace = File::open(path).map_err(|error| {
        io::Error::new(error.kind(), format!("cannot open network namespace {}: {error}", path.display()))
    })?;
    let dialling = std::thread::Builder::new().name("dial".to_owned()).spawn(move || {
        move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))
            .map_err(|error| io::Error::other(format!("cannot enter the network namespace: {error}")))?;
        connect(port)
    })?;
    dialling.join().unwrap_or_else(|_| Err(io::Error::other("the connecting thread panicked")))
}

fn connect(port: u16) -> io::Result<TcpStream> {
    let v4 = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let v6 = SocketAddr::from((Ipv6Addr::LOCALHOST, port));
    TcpStream::connect_timeout(&v4, CONNECTING)
        .or_else(|first| TcpStream::connect_timeout(&v6, CONNECTING).map_err(|_| first))
        .map_err(|error| {
            io::Error::new(error.kind(), format!("cannot connect to localhost:{port} in the pod: {error}"))
        })
}
