//! Whole sessions over real sockets, with real processes behind them, by clients that share no session code with the server.

mod client;
mod sessions;
mod strange;

use std::net::SocketAddr;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::net::{TcpListener, TcpStream};
use tokio::process::Command;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use super::{Backend, Io, Server, Session, Settings, Wanted};

/// Runs commands as processes of this machine; the pod's localhost is this one.
struct Here;

impl Backend for Here {
    fn exec(&self, _: String, command: Vec<String>, _: Wanted, io: Io) -> BoxFuture<'static, Result<u32, String>> {
        Box::pin(async move {
            let mut child = Command::new(&command[0])
                .args(&command[1..])
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .map_err(|error| error.to_string())?;
            let Io { stdin, stdout, stderr, resize } = io;
            let (mut to, mut from, mut errors) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
            if let Some(mut stdin) = stdin {
                let mut to = to.take().expect("piped");
                tokio::spawn(async move { tokio::io::copy(&mut stdin, &mut to).await });
            }
            drop(to);
            let out = async {
                if let Some(mut sizes) = resize
                    && let Some(mut stdout) = stdout
                {
                    let size = sizes.recv().await.expect("a size");
                    let text = format!("{}x{}", size.width, size.height);
                    tokio::io::AsyncWriteExt::write_all(&mut stdout, text.as_bytes()).await.expect("client reads");
                } else if let Some(mut stdout) = stdout {
                    tokio::io::copy(from.as_mut().expect("piped"), &mut stdout).await.expect("client reads");
                }
            };
            let err = async {
                if let Some(mut stderr) = stderr {
                    tokio::io::copy(errors.as_mut().expect("piped"), &mut stderr).await.expect("client reads");
                }
            };
            tokio::join!(out, err);
            let status = child.wait().await.map_err(|error| error.to_string())?;
            Ok(status.code().unwrap_or(255).unsigned_abs())
        })
    }

    fn attach(&self, container: String, _: Wanted, mut io: Io) -> BoxFuture<'static, Result<(), String>> {
        Box::pin(async move {
            let (Some(stdin), Some(stdout)) = (io.stdin.as_mut(), io.stdout.as_mut()) else {
                return Err(format!("container {container} has no streams"));
            };
            tokio::io::copy(stdin, stdout).await.map(drop).map_err(|error| error.to_string())
        })
    }

    fn connect(&self, _: String, port: u16) -> BoxFuture<'static, Result<TcpStream, String>> {
        Box::pin(async move { TcpStream::connect(("127.0.0.1", port)).await.map_err(|error| error.to_string()) })
    }
}

/// A server that ends with the test.
struct Rig {
    server: Server,
    address: SocketAddr,
    _stop: DropGuard,
}

impl Rig {
    async fn new() -> Self {
        Self::with_idle(Duration::from_secs(60)).await
    }

    async fn with_idle(idle: Duration) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        let settings = Settings { tls: None, idle };
        let server = Server::start(listener, settings, Arc::new(Here), TaskTracker::new(), stop.clone()).unwrap();
        Self { server, address, _stop: stop.drop_guard() }
    }

    /// The path of a session's URL.
    fn path(&self, session: Session) -> String {
        let url = self.server.url(session).unwrap();
        url.strip_prefix(&format!("http://{}", self.address)).unwrap().to_owned()
    }

    fn exec(&self, command: &[&str], wanted: Wanted) -> String {
        let command = command.iter().map(|part| (*part).to_owned()).collect();
        self.path(Session::Exec { container: "c".to_owned(), command, wanted })
    }

    fn forward(&self, ports: &[u16]) -> String {
        self.path(Session::Forward { pod: "p".to_owned(), ports: ports.to_vec() })
    }
}

const ALL: Wanted = Wanted { stdin: true, stdout: true, stderr: true, tty: false };

/// A server that gives back what it gets, in capitals, and closes after it.
async fn shouting() -> u16 {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut text = Vec::new();
                socket.read_to_end(&mut text).await.unwrap();
                socket.write_all(&text.to_ascii_uppercase()).await.unwrap();
            });
        }
    });
    port
}
