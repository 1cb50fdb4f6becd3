//! The introspection service: what this server is made of, and who it is.

use model::error::{Classify, Kind};
use model::filter::Filters;
use proto::prost::DecodeError;
use proto::services::introspection::v1 as wire;
use proto::types::RuntimeRequest;
use tonic::{Request, Response, Status};

use super::{Failure, unscoped};
use crate::plugins::{Plugin, RUNTIME};
use crate::tasks::Tasks;

/// The service.
#[derive(Debug, Clone)]
pub struct Introspection {
    rows: Vec<Plugin>,
    identity: Identity,
    tasks: Tasks,
}

/// Who this server is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The same over restarts.
    pub uuid: String,
    /// The daemon's process.
    pub pid: u32,
    /// The inode of its pid namespace.
    pub pid_namespace: u64,
}

/// Why there is nothing to say about a plugin.
#[derive(Debug, thiserror::Error)]
enum PluginError {
    #[error("plugin {kind}.{id}")]
    Missing { kind: String, id: String },
    #[error("options of type {type_url:?} say nothing to plugin {kind}.{id}")]
    Options { type_url: String, kind: String, id: String },
    #[error("cannot decode the runtime request")]
    Decode(#[from] DecodeError),
}

impl Classify for PluginError {
    fn kind(&self) -> Kind {
        match self {
            Self::Missing { .. } => Kind::NotFound,
            Self::Options { .. } | Self::Decode(_) => Kind::InvalidArgument,
        }
    }
}

impl Introspection {
    /// Tells of `rows` and `identity`; runtimes are asked through `tasks`.
    pub fn new(rows: Vec<Plugin>, identity: Identity, tasks: Tasks) -> Self {
        Self { rows, identity, tasks }
    }

    /// A plugin, and more about it: of the one that runs containers, what a runtime says about itself if one is named.
    async fn info(&self, request: wire::PluginInfoRequest) -> Result<wire::PluginInfoResponse, Failure> {
        let wire::PluginInfoRequest { r#type: kind, id, options } = request;
        let Some(row) = self.rows.iter().find(|row| row.kind == kind && row.id == id) else {
            return Err(PluginError::Missing { kind, id }.into());
        };
        let extra = match options {
            None => None,
            Some(options) => {
                let asked = proto::any::unpack::<RuntimeRequest>(&options).map_err(PluginError::from)?;
                let Some(asked) = asked.filter(|_| kind == RUNTIME) else {
                    return Err(PluginError::Options { type_url: options.type_url, kind, id }.into());
                };
                let info = self.tasks.runtime_info(&asked.runtime_path, asked.options).await?;
                Some(proto::any::pack(&info))
            }
        };
        Ok(wire::PluginInfoResponse { plugin: Some(to_wire(row)), extra })
    }
}

fn to_wire(row: &Plugin) -> wire::Plugin {
    wire::Plugin {
        r#type: row.kind.clone(),
        id: row.id.clone(),
        requires: row.requires.iter().map(|kind| (*kind).to_owned()).collect(),
        platforms: row.platforms.iter().cloned().map(Into::into).collect(),
        exports: row.exports.clone(),
        capabilities: row.capabilities.clone(),
        init_err: row.failure.as_ref().map(|failure| proto::status::new(Kind::Unknown, failure.as_str())),
    }
}

#[tonic::async_trait]
impl wire::introspection_server::Introspection for Introspection {
    async fn plugins(&self, request: Request<wire::PluginsRequest>) -> Result<Response<wire::PluginsResponse>, Status> {
        unscoped(request, async |wire::PluginsRequest { filters }| {
            let filters = Filters::parse(&filters)?;
            let plugins = self.rows.iter().filter(|row| filters.matches(*row)).map(to_wire).collect();
            Ok(wire::PluginsResponse { plugins })
        })
        .await
    }

    async fn server(&self, request: Request<()>) -> Result<Response<wire::ServerResponse>, Status> {
        unscoped(request, async |()| {
            Ok(wire::ServerResponse {
                uuid: self.identity.uuid.clone(),
                pid: self.identity.pid.into(),
                pidns: self.identity.pid_namespace,
                deprecations: Vec::new(),
            })
        })
        .await
    }

    async fn plugin_info(
        &self,
        request: Request<wire::PluginInfoRequest>,
    ) -> Result<Response<wire::PluginInfoResponse>, Status> {
        unscoped(request, async |message| self.info(message).await).await
    }
}
