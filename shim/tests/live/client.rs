//! A ttrpc client as small as can be: blocking, one connection.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use prost::Message;
use proto::status::Failure;
use proto::task::v3 as wire;
use proto::ttrpc::{Decoder, Frame, FrameKind, Request, Response, encode, encode_frame};

/// How long any answer may take.
const PATIENCE: Duration = Duration::from_secs(40);

pub(crate) struct Client {
    socket: UnixStream,
    decoder: Decoder,
    next: u32,
    service: &'static str,
}

impl Client {
    pub(crate) fn connect(path: &Path) -> Self {
        let socket = UnixStream::connect(path).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Self { socket, decoder: Decoder::new(), next: 1, service: proto::service::TASK_V3 }
    }

    pub(crate) fn of(mut self, service: &'static str) -> Self {
        self.service = service;
        self
    }

    /// Opens a stream.
    pub(crate) fn open<M: Message>(&mut self, method: &str, message: &M) -> u32 {
        self.send(method, message)
    }

    /// Sends a piece of a stream.
    pub(crate) fn send_data<M: Message>(&mut self, stream_id: u32, flags: u8, message: &M) {
        let frame = Frame { stream_id, kind: FrameKind::Data, flags, payload: message.encode_to_vec().into() };
        let mut bytes = Vec::new();
        encode_frame(&frame, &mut bytes).unwrap();
        self.socket.write_all(&bytes).unwrap();
    }

    /// The next piece of a stream; the response at its end.
    pub(crate) fn receive_data<M: Message + Default>(&mut self, stream_id: u32) -> Result<M, Response> {
        let frame = self.frame();
        assert_eq!(frame.stream_id, stream_id);
        match frame.kind {
            FrameKind::Data => Ok(M::decode(frame.payload).unwrap()),
            FrameKind::Response => Err(Response::decode(frame.payload).unwrap()),
            kind => panic!("a frame of kind {kind:?}"),
        }
    }

    fn frame(&mut self) -> Frame {
        loop {
            if let Some(frame) = self.decoder.decode().unwrap() {
                return frame;
            }
            let mut buffer = [0; 4096];
            let count = self.socket.read(&mut buffer).expect("an answer in time");
            assert_ne!(count, 0, "the shim has closed the connection");
            self.decoder.extend(&buffer[..count]);
        }
    }

    pub(crate) fn of_version_2(mut self) -> Self {
        self.service = proto::service::TASK_V2;
        self
    }

    /// Sends a request without waiting; gives its stream.
    pub(crate) fn send<M: Message>(&mut self, method: &str, message: &M) -> u32 {
        let stream = self.next;
        self.next += 2;
        let mut bytes = Vec::new();
        encode(FrameKind::Request, stream, &Request::new(self.service, method, message), &mut bytes).unwrap();
        self.socket.write_all(&bytes).unwrap();
        stream
    }

    /// The next response, whichever request it is for.
    pub(crate) fn receive(&mut self) -> (u32, Response) {
        let frame = self.frame();
        assert_eq!(frame.kind, FrameKind::Response);
        (frame.stream_id, Response::decode(frame.payload).unwrap())
    }

    pub(crate) fn call<M: Message, R: Message + Default>(&mut self, method: &str, message: &M) -> Result<R, Failure> {
        let stream = self.send(method, message);
        let (answered, response) = self.receive();
        assert_eq!(answered, stream);
        response.into_result()
    }

    pub(crate) fn start(&mut self, id: &str, exec: &str) -> Result<u32, Failure> {
        let request = wire::StartRequest { id: id.into(), exec_id: exec.into() };
        self.call("Start", &request).map(|started: wire::StartResponse| started.pid)
    }

    /// Adds a process and starts it.
    pub(crate) fn exec(&mut self, request: &wire::ExecProcessRequest) -> Result<u32, Failure> {
        self.call::<_, ()>("Exec", request)?;
        self.start(&request.id, &request.exec_id)
    }

    /// Adds a process, lets it run to its end, forgets it; how it ended.
    #[track_caller]
    pub(crate) fn run(&mut self, request: &wire::ExecProcessRequest) -> u32 {
        self.exec(request).unwrap();
        let status = self.wait(&request.id, &request.exec_id).unwrap();
        assert_eq!(self.delete(&request.id, &request.exec_id).unwrap().exit_status, status);
        status
    }

    pub(crate) fn wait(&mut self, id: &str, exec: &str) -> Result<u32, Failure> {
        let request = wire::WaitRequest { id: id.into(), exec_id: exec.into() };
        self.call("Wait", &request).map(|waited: wire::WaitResponse| waited.exit_status)
    }

    pub(crate) fn kill(&mut self, id: &str, exec: &str, signal: u32) -> Result<(), Failure> {
        let request = wire::KillRequest { id: id.into(), exec_id: exec.into(), signal, all: false };
        self.call("Kill", &request)
    }

    pub(crate) fn delete(&mut self, id: &str, exec: &str) -> Result<wire::DeleteResponse, Failure> {
        self.call("Delete", &wire::DeleteRequest { id: id.into(), exec_id: exec.into() })
    }

    pub(crate) fn state(&mut self, id: &str, exec: &str) -> Result<wire::StateResponse, Failure> {
        self.call("State", &wire::StateRequest { id: id.into(), exec_id: exec.into() })
    }

    pub(crate) fn shut_down(&mut self) {
        self.call::<_, ()>("Shutdown", &wire::ShutdownRequest::default()).unwrap();
    }

    pub(crate) fn shim_pid(&mut self) -> i32 {
        let connected: wire::ConnectResponse = self.call("Connect", &wire::ConnectRequest::default()).unwrap();
        connected.shim_pid.try_into().unwrap()
    }
}
