//! What goes into `start` and comes out of it, in the three forms that daemons speak (containerd's contract). Pure.
//!
//! | Daemon | stdin | stdout it understands |
//! |---|---|---|
//! | up to 2.2 | an `Any` with the runtime's options, or nothing | the plain address |
//! | 2.3 and later | `BootstrapParams` | `BootstrapResult` |
//!
//! Nothing but the bytes tells the two apart: only parameters that name the very container and namespace of the command
//! line are taken for the new form, so an `Any` can never be.

use std::path::PathBuf;

use prost::Message as _;
use prost_types::Any;
use proto::bootstrap::{BootstrapParams, BootstrapResult};
use proto::runc::v1::Options;

use crate::args::Args;

/// The version of the task service that we tell new daemons.
const API_VERSION: i32 = 3;

/// How the daemon speaks, and so how it wants to be answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// Wants the address and nothing else.
    Plain,
    /// Wants a `BootstrapResult`.
    Result,
}

/// What the daemon said.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Bootstrap {
    /// How it is answered.
    pub form: Form,
    /// The runtime's options, if they were ours.
    pub options: Option<Options>,
    /// Where events go, if said here and not in the environment.
    pub ttrpc_address: Option<String>,
    /// Where the socket is to be made, if the daemon minds.
    pub socket_dir: Option<PathBuf>,
    /// Whether it wants debug lines, besides the flag.
    pub debug: bool,
}

/// Reads the standard input of `start`. What makes no sense is no error: older shims ignored it too.
pub(crate) fn read(input: &[u8], args: &Args) -> Bootstrap {
    match BootstrapParams::decode(input) {
        Ok(params) if !input.is_empty() && params.instance_id == args.id && params.namespace == args.namespace => {
            new_form(params)
        }
        _ => Bootstrap {
            form: Form::Plain,
            options: Any::decode(input).ok().as_ref().and_then(options),
            ttrpc_address: None,
            socket_dir: None,
            debug: false,
        },
    }
}

fn new_form(params: BootstrapParams) -> Bootstrap {
    Bootstrap {
        form: Form::Result,
        options: params.extensions.iter().filter_map(|extension| extension.value.as_ref()).find_map(options),
        ttrpc_address: Some(params.containerd_ttrpc_address).filter(|address| !address.is_empty()),
        socket_dir: params.socket_dir.filter(|dir| !dir.is_empty()).map(PathBuf::from),
        debug: params.log_level < 0,
    }
}

fn options(any: &Any) -> Option<Options> {
    proto::any::unpack(any).ok().flatten()
}

/// What `start` prints: the result and nothing else, not even a newline. Version 0 is that of our own service.
pub(crate) fn answer(form: Form, address: &str, version: u32) -> Vec<u8> {
    match form {
        Form::Plain => address.as_bytes().to_vec(),
        Form::Result => BootstrapResult {
            version: i32::try_from(version).ok().filter(|version| *version != 0).unwrap_or(API_VERSION),
            address: address.to_owned(),
            protocol: "ttrpc".to_owned(),
            ..Default::default()
        }
        .encode_to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use proto::bootstrap::Extension;

    use super::*;

    fn args() -> Args {
        let words = "-namespace ns -id c start".split(' ').map(Into::into);
        crate::args::parse(words).unwrap()
    }

    fn packed() -> Any {
        proto::any::pack(&Options { shim_cgroup: "/shims".into(), ..Default::default() })
    }

    #[test]
    fn nothing_and_an_any_are_the_old_form() {
        let empty = read(b"", &args());
        assert_eq!((empty.form, empty.options), (Form::Plain, None));
        let any = read(&packed().encode_to_vec(), &args());
        assert_eq!(any.form, Form::Plain);
        assert_eq!(any.options.unwrap().shim_cgroup, "/shims");
        assert_eq!(read(b"\xff\xff garbage", &args()).form, Form::Plain);
    }

    #[test]
    fn params_are_the_new_form_only_for_this_container() {
        let mut params = BootstrapParams {
            instance_id: "c".into(),
            namespace: "ns".into(),
            log_level: -4,
            containerd_ttrpc_address: "/t".into(),
            extensions: vec![Extension { value: Some(packed()) }],
            socket_dir: Some("/run/s".into()),
            ..Default::default()
        };
        let read_params = read(&params.encode_to_vec(), &args());
        assert_eq!(read_params.form, Form::Result);
        assert_eq!(read_params.options.unwrap().shim_cgroup, "/shims");
        assert_eq!(read_params.ttrpc_address.as_deref(), Some("/t"));
        assert_eq!(read_params.socket_dir, Some("/run/s".into()));
        assert!(read_params.debug);
        params.instance_id = "other".into();
        assert_eq!(read(&params.encode_to_vec(), &args()).form, Form::Plain);
    }

    #[test]
    fn answers_are_what_each_side_parses() {
        assert_eq!(answer(Form::Plain, "unix:///s", 0), b"unix:///s");
        let result = BootstrapResult::decode(answer(Form::Result, "unix:///s", 0).as_slice()).unwrap();
        assert_eq!((result.version, result.address.as_str(), result.protocol.as_str()), (3, "unix:///s", "ttrpc"));
        let other = BootstrapResult::decode(answer(Form::Result, "unix:///s", 2).as_slice()).unwrap();
        assert_eq!(other.version, 2, "of a service that is another's");
    }
}
