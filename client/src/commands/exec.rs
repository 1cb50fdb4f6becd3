//! `gantry exec`

use client::spec::{PROCESS_URL, Wanted};
use client::task::Stdio;
use client::{Client, ClientError};
use proto::prost_types::Any;

use super::attached;
use super::run::{exit_code, made_up_id};
use crate::output::Format;

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Give it a terminal.
    #[arg(short, long)]
    tty: bool,
    /// Pass input on.
    #[arg(short, long)]
    interactive: bool,
    /// Leave it running and do not wait.
    #[arg(short, long)]
    detach: bool,
    /// Set a variable, NAME=value; again for more.
    #[arg(short, long)]
    env: Vec<String>,
    /// The working directory.
    #[arg(short, long)]
    workdir: Option<String>,
    /// Run as user or user:group, by name or number.
    #[arg(short, long)]
    user: Option<String>,
    /// The container.
    id: String,
    /// The command.
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<String>,
}

pub(crate) async fn run(client: &Client, arguments: Arguments, _format: Format) -> Result<u8, ClientError> {
    if arguments.detach && (arguments.interactive || arguments.tty) {
        return Err(ClientError::Invalid("-d goes on without this program: -i and -t make no sense with it".into()));
    }
    attached::check_terminal(arguments.tty, arguments.interactive)?;
    let container = client.container(&arguments.id).await?;
    let user = match &arguments.user {
        Some(text) => Some(client.exec_user(&container, text).await?),
        None => None,
    };
    let spec = container.spec.as_ref().ok_or(ClientError::Incomplete("specification"))?;
    let document = |what: &str| {
        let what = what.to_owned();
        move |source| ClientError::Document { what, source }
    };
    let spec = serde_json::from_slice(&spec.value).map_err(document("the container's specification"))?;
    let wanted = Wanted {
        args: arguments.command,
        env: arguments.env,
        cwd: arguments.workdir,
        terminal: arguments.tty,
        ..Default::default()
    };
    let process = client::spec::exec(&spec, &wanted, user.as_ref())?;
    let value = serde_json::to_vec(&process).map_err(document("the process just made"))?;
    let process = Any { type_url: PROCESS_URL.into(), value };
    let exec = format!("exec-{}", made_up_id());
    if arguments.detach {
        let process = client.add_process(&arguments.id, &exec, process, Stdio::default()).await?;
        return process.start().await.map(|_| 0);
    }
    let (fifos, stdio) = attached::pipes(&exec, arguments.interactive, arguments.tty)?;
    let process = client.add_process(&arguments.id, &exec, process, stdio).await?;
    match attached::follow(&process, fifos, arguments.tty).await {
        Ok(status) => Ok(exit_code(status)),
        Err(error) => {
            // It may not have started, or may have ended: then there is nothing to end or to forget.
            let _ = process.kill(nix::libc::SIGKILL.unsigned_abs(), false).await;
            let _ = process.delete().await;
            Err(error)
        }
    }
}
