//! A client for SPDY, as small as can be.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::cri::streaming::spdy::{Deflater, FLAG_FIN, HEADER_LEN, Kind, encode_control, encode_data};

/// Longer than anything takes, even on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// Sends a request that asks for SPDY and gives the head of the answer and the connection.
pub(super) async fn request(address: SocketAddr, method: &str, path: &str, headers: &str) -> (String, TcpStream) {
    let mut socket = TcpStream::connect(address).await.unwrap();
    let head = format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n");
    socket.write_all(head.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        answer.push(timeout(PATIENCE, socket.read_u8()).await.unwrap().unwrap());
    }
    (String::from_utf8(answer).unwrap(), socket)
}

pub(super) struct Client<I> {
    pub io: I,
    deflater: Deflater,
    next: u32,
    /// What came on each stream, and whether it was half-closed.
    pub got: HashMap<u32, (Vec<u8>, bool)>,
    /// Control frames that came.
    pub control: Vec<u16>,
    pub closed: bool,
}

impl Client<TcpStream> {
    pub(super) async fn connect(address: SocketAddr, path: &str, protocol: &str) -> Self {
        let headers = format!(
            "Connection: Upgrade\r\nUpgrade: SPDY/3.1\r\nX-Stream-Protocol-Version: {protocol}\r\nContent-Length: 0\r\n"
        );
        let (answer, socket) = request(address, "POST", path, &headers).await;
        assert!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
        Self::over(socket)
    }
}

impl<I: AsyncRead + AsyncWrite + Unpin> Client<I> {
    pub(super) fn over(io: I) -> Self {
        Self { io, deflater: Deflater::new(), next: 1, got: HashMap::new(), control: Vec::new(), closed: false }
    }

    pub(super) async fn open(&mut self, headers: &[(&str, &str)]) -> u32 {
        let id = self.next;
        self.next += 2;
        let block = self.deflater.block(headers).unwrap();
        let payload = [&id.to_be_bytes()[..], &[0; 6], &block].concat();
        self.io.write_all(&encode_control(Kind::SynStream, 0, &payload)).await.unwrap();
        id
    }

    pub(super) async fn send(&mut self, id: u32, bytes: &[u8], fin: bool) {
        self.io.write_all(&encode_data(id, fin, bytes.len())).await.unwrap();
        self.io.write_all(bytes).await.unwrap();
    }

    pub(super) async fn ping(&mut self, id: u32) {
        self.io.write_all(&encode_control(Kind::Ping, 0, &id.to_be_bytes())).await.unwrap();
    }

    /// Reads one frame.
    pub(super) async fn frame(&mut self) {
        let mut header = [0; HEADER_LEN];
        if timeout(PATIENCE, self.io.read_exact(&mut header)).await.unwrap().is_err() {
            self.closed = true;
            return;
        }
        let len = u32::from_be_bytes([0, header[5], header[6], header[7]]) as usize;
        let mut payload = vec![0; len];
        self.io.read_exact(&mut payload).await.unwrap();
        if header[0] & 0x80 != 0 {
            self.control.push(u16::from_be_bytes([header[2], header[3]]));
            return;
        }
        let id = u32::from_be_bytes([header[0], header[1], header[2], header[3]]);
        let (bytes, fin) = self.got.entry(id).or_default();
        bytes.extend_from_slice(&payload);
        *fin |= header[4] & FLAG_FIN != 0;
    }

    /// Reads until the server says that it is done, or closes.
    pub(super) async fn until_the_end(&mut self) {
        while !self.closed && !self.control.contains(&(Kind::GoAway as u16)) {
            self.frame().await;
        }
    }

    /// What came on a stream, until its half-close.
    pub(super) async fn all(&mut self, id: u32) -> String {
        while !self.got.get(&id).is_some_and(|(_, fin)| *fin) {
            assert!(!self.closed, "closed before the end of stream {id}");
            self.frame().await;
        }
        self.text(id)
    }

    pub(super) fn text(&self, id: u32) -> String {
        self.got.get(&id).map(|(bytes, _)| String::from_utf8_lossy(bytes).into_owned()).unwrap_or_default()
    }
}
