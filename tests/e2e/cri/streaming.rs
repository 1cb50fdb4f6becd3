//! Exec, attach and port-forward as a client of the kubelet has them: a URL from a call, and a WebSocket to it.

use anyhow::{Context as _, bail, ensure};
use futures_util::{SinkExt as _, StreamExt as _};
use harness::cri::{container_config, pod_config};
use harness::{Node, eventually};
use proto::cri as wire;
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::http::HeaderValue;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};
use tonic::Code;

use super::rig::{Pod, Rig, content, script_config};

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// Half-closes input, from the fifth version of the protocol on.
const CLOSE_STDIN: [u8; 2] = [255, 0];

async fn connect(url: &str) -> anyhow::Result<Socket> {
    let mut request = url.replacen("http://", "ws://", 1).into_client_request()?;
    request.headers_mut().insert("sec-websocket-protocol", HeaderValue::from_static("v5.channel.k8s.io"));
    Ok(tokio_tungstenite::connect_async(request).await?.0)
}

/// What came on stdout, stderr and the error channel until the end.
async fn all(socket: &mut Socket) -> anyhow::Result<[String; 3]> {
    let mut got: [Vec<u8>; 3] = Default::default();
    while let Some(message) = socket.next().await {
        match message? {
            Message::Binary(bytes) if matches!(bytes.first(), Some(1..=3)) => {
                got[usize::from(bytes[0]) - 1].extend_from_slice(&bytes[1..]);
            }
            Message::Close(_) => break,
            _ => {}
        }
    }
    let mut texts = got.into_iter().map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    Ok(std::array::from_fn(|_| texts.next().unwrap_or_default()))
}

fn input(text: &str) -> Message {
    Message::binary([b"\0", text.as_bytes()].concat())
}

fn exec(container: &str, command: &[&str]) -> wire::ExecRequest {
    wire::ExecRequest {
        container_id: container.to_owned(),
        cmd: command.iter().map(|&word| word.to_owned()).collect(),
        stdin: true,
        stdout: true,
        stderr: true,
        tty: false,
    }
}

fn sleeping(rig: &Rig, name: &str) -> anyhow::Result<(Pod, String)> {
    let pod = rig.pod(name)?;
    let id = rig.run(&pod, script_config("c", "exec sleep 1000"))?;
    Ok((pod, id))
}

#[test]
fn a_command_has_its_streams_and_gives_its_code() -> anyhow::Result<()> {
    let rig = Rig::start()?;
    let (_pod, id) = sleeping(&rig, "exec")?;
    let url = rig.ask(rig.cri().exec(exec(&id, &["sh", "-c", "cat; echo oops >&2; exit 3"])))?.url;
    let [stdout, stderr, error] = rig.wait(async {
        let mut socket = connect(&url).await?;
        socket.send(input("hello")).await?;
        socket.send(Message::binary(CLOSE_STDIN.to_vec())).await?;
        all(&mut socket).await
    })?;
    ensure!((stdout.as_str(), stderr.as_str()) == ("hello", "oops\n"), "{stdout} {stderr}");
    ensure!(error.contains("NonZeroExitCode") && error.contains(r#""message":"3""#), "{error}");
    ensure!(rig.wait(connect(&url)).is_err(), "a URL is good once");

    let url = rig.ask(rig.cri().exec(exec(&id, &["/no/such/program"])))?.url;
    let [_, _, error] = rig.wait(async { all(&mut connect(&url).await?).await })?;
    ensure!(error.contains("InternalError") && error.contains("no such file"), "{error}");
    // Nothing is left of the commands.
    let pids = rig.daemon.ctr(&["-n", "k8s.io", "tasks", "ps", &id])?.ok()?;
    ensure!(pids.lines().count() == 2, "{pids}");
    Ok(())
}

#[test]
fn a_command_may_have_a_terminal_of_any_size() -> anyhow::Result<()> {
    let rig = Rig::start()?;
    let (_pod, id) = sleeping(&rig, "tty")?;
    let wanted = wire::ExecRequest { tty: true, stderr: false, ..exec(&id, &["sh", "-c", "read go; stty size; tty"]) };
    let url = rig.ask(rig.cri().exec(wanted))?.url;
    let [stdout, _, error] = rig.wait(async {
        let mut socket = connect(&url).await?;
        socket
            .send(Message::binary(br#"{"Width":120,"Height":40}"#.iter().fold(vec![4], |mut all, byte| {
                all.push(*byte);
                all
            })))
            .await?;
        // The size is set by a call of its own; the terminal says when.
        tokio::time::sleep(std::time::Duration::from_millis(500)).await;
        socket.send(input("go\n")).await?;
        all(&mut socket).await
    })?;
    ensure!(stdout.contains("40 120") && stdout.contains("/dev/pts/"), "{stdout}");
    ensure!(error.contains("Success"), "{error}");
    Ok(())
}

#[test]
fn clients_attach_to_what_runs_and_its_log_goes_on() -> anyhow::Result<()> {
    let rig = Rig::start()?;
    let pod = rig.pod("attach")?;
    let mut config = script_config("c", "while read line; do echo \"said $line\"; [ \"$line\" = end ] && exit 0; done");
    config.stdin = true;
    let id = rig.run(&pod, config)?;
    let attach =
        || wire::AttachRequest { container_id: id.clone(), stdin: true, tty: false, stdout: true, stderr: true };
    for word in ["one", "two"] {
        let url = rig.ask(rig.cri().attach(attach()))?.url;
        rig.wait(async {
            let mut socket = connect(&url).await?;
            socket.send(input(&format!("{word}\n"))).await?;
            loop {
                match socket.next().await.context("the client is disconnected")?? {
                    Message::Binary(bytes) if bytes.starts_with(b"\x01said ") => return anyhow::Ok(()),
                    Message::Close(frame) => bail!("closed: {frame:?}"),
                    _ => {}
                }
            }
        })?;
    }
    let url = rig.ask(rig.cri().attach(attach()))?.url;
    let [stdout, ..] = rig.wait(async {
        let mut socket = connect(&url).await?;
        socket.send(input("end\n")).await?;
        all(&mut socket).await
    })?;
    ensure!(stdout == "said end\n", "{stdout}");
    let status = rig.ended(&id)?;
    ensure!(status.exit_code == 0, "{status:?}");
    let log = content(&std::fs::read_to_string(&status.log_path)?)?;
    ensure!(log == "said one\nsaid two\nsaid end\n", "{log}");
    Ok(())
}

#[test]
fn ports_of_pods_are_reached_through_the_node() -> anyhow::Result<()> {
    let node = Node::start()?;
    let config = pod_config("forward");
    let pod = node.run_pod(&config)?;
    let serve = ["sh", "-c", "mkdir /tmp/w; echo page >/tmp/w/index.html; exec httpd -f -p 127.0.0.1:80 -h /tmp/w"];
    node.run_container(&pod, &config, &container_config("httpd", &serve))?;
    let forward = |port: i32| wire::PortForwardRequest { pod_sandbox_id: pod.clone(), port: vec![port] };
    let ask = |port: i32| node.wait(async { node.pods().port_forward(forward(port)).await });
    let page = |port: i32| -> anyhow::Result<(String, String)> {
        let url = ask(port)?.into_inner().url;
        // The streaming server listens where the daemon lives, which has a network of its own here.
        let address =
            url.strip_prefix("http://").and_then(|rest| rest.split('/').next()).context("an address")?.to_owned();
        let netns = node.daemon.netns().context("a network of its own")?.to_owned();
        let socket = harness::cri::dial(&netns, &address)?;
        node.wait(async {
            socket.set_nonblocking(true)?;
            let mut request = url.replacen("http://", "ws://", 1).into_client_request()?;
            let name = HeaderValue::from_static("v4.channel.k8s.io");
            request.headers_mut().insert("sec-websocket-protocol", name);
            let stream = TcpStream::from_std(socket)?;
            let (mut socket, _) = tokio_tungstenite::client_async(request, stream).await?;
            socket.send(input("GET / HTTP/1.0\r\n\r\n")).await?;
            let (mut data, mut errors) = (Vec::new(), Vec::new());
            while let Some(Ok(message)) = socket.next().await {
                match message {
                    Message::Binary(bytes) if bytes.first() == Some(&0) => data.extend_from_slice(&bytes[1..]),
                    Message::Binary(bytes) if bytes.first() == Some(&1) => errors.extend_from_slice(&bytes[1..]),
                    Message::Close(_) => break,
                    _ => {}
                }
            }
            let text = |bytes: Vec<u8>| String::from_utf8_lossy(bytes.get(2..).unwrap_or_default()).into_owned();
            anyhow::Ok((text(data), text(errors)))
        })
    };
    eventually("the page comes through", || {
        let (data, errors) = page(80)?;
        ensure!(data.contains("page\n"), "{data} {errors}");
        Ok(())
    })?;
    let (data, errors) = page(81)?;
    ensure!(data.is_empty() && errors.contains("forwarding port 81") && errors.contains("refused"), "{data} {errors}");
    ensure!(ask(0).err().map(|status| status.code()) == Some(Code::InvalidArgument), "0 is no port");
    node.remove_pod(&pod)?;
    Ok(())
}

#[test]
fn what_cannot_be_streamed_is_refused_by_the_call() -> anyhow::Result<()> {
    let rig = Rig::start()?;
    let (pod, id) = sleeping(&rig, "refused")?;
    let both = wire::ExecRequest { tty: true, ..exec(&id, &["true"]) };
    let none = wire::ExecRequest { stdin: false, stdout: false, stderr: false, ..exec(&id, &["true"]) };
    for (request, code, words) in [
        (both, Code::InvalidArgument, "tty and stderr"),
        (none, Code::InvalidArgument, "one of stdin"),
        (exec(&id, &[]), Code::InvalidArgument, "no command"),
        (exec("none", &["true"]), Code::NotFound, "none"),
    ] {
        let status = rig.ask(rig.cri().exec(request)).err().context("it is refused")?;
        ensure!(status.code() == code && status.message().contains(words), "{status}");
    }
    rig.stop(&id, 0)?;
    let status = rig.ask(rig.cri().exec(exec(&id, &["true"]))).err().context("it has ended")?;
    ensure!(status.code() == Code::FailedPrecondition, "{status}");
    rig.ask(rig.cri().stop_pod_sandbox(wire::StopPodSandboxRequest { pod_sandbox_id: pod.id.clone() }))?;
    let forward = wire::PortForwardRequest { pod_sandbox_id: pod.id, port: vec![80] };
    let status = rig.ask(rig.cri().port_forward(forward)).err().context("it does not run")?;
    ensure!(status.code() == Code::FailedPrecondition, "{status}");
    Ok(())
}
