//! Runtime handlers: names that pods choose their runtime by, and what those runtimes can do.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use proto::cri::RuntimeHandlerFeatures;
use proto::prost_types::Any;

use super::settings::Handler;
use super::{Cri, CriError};

/// What runtimes answered when they were asked, by handler.
#[derive(Debug, Default)]
pub struct Features {
    known: Mutex<HashMap<String, RuntimeHandlerFeatures>>,
}

/// The options that a handler's shim gets with each container.
pub fn options(handler: &Handler) -> Option<Any> {
    if let Some((type_url, config_path)) = &handler.other_options {
        let options = proto::runtimeoptions::v1::Options {
            type_url: type_url.clone(),
            config_path: config_path.clone(),
            ..Default::default()
        };
        return Some(proto::any::pack(&options));
    }
    // Foreign shims refuse options of others.
    let takes_them = matches!(handler.runtime_type.as_str(), "io.containerd.runc.v2" | "io.containerd.gantry.v1");
    (takes_them && handler.options != proto::runc::v1::Options::default()).then(|| proto::any::pack(&handler.options))
}

impl Cri {
    /// A handler that a pod asked for.
    ///
    /// # Errors
    /// There is none of that name.
    pub(crate) fn handler(&self, name: &str) -> Result<&Handler, CriError> {
        let handler = self.inner.settings.handler(name);
        handler.ok_or_else(|| CriError::Invalid(format!("no runtime for {name:?} is configured")))
    }

    /// What the runtime behind a handler can do. Asked of the runtime once; one that cannot say can do nothing special.
    pub(crate) async fn features_of(&self, name: &str) -> RuntimeHandlerFeatures {
        let known = self.inner.features.known.lock().unwrap_or_else(PoisonError::into_inner).get(name).copied();
        if let Some(known) = known {
            return known;
        }
        let Some(handler) = self.inner.settings.handler(name) else { return RuntimeHandlerFeatures::default() };
        let runtime = if handler.runtime_path.is_empty() { &handler.runtime_type } else { &handler.runtime_path };
        let features = match self.inner.tasks.runtime_info(runtime, options(handler)).await {
            Ok(info) => features(&info),
            Err(error) => {
                tracing::debug!(handler = name, %error, "a runtime cannot say what it can do");
                RuntimeHandlerFeatures::default()
            }
        };
        self.inner.features.known.lock().unwrap_or_else(PoisonError::into_inner).insert(name.to_owned(), features);
        features
    }
}

/// Reads the OCI features document in what a shim says of itself.
fn features(info: &proto::types::RuntimeInfo) -> RuntimeHandlerFeatures {
    let Some(document) = &info.features else { return RuntimeHandlerFeatures::default() };
    let document: serde_json::Value = serde_json::from_slice(&document.value).unwrap_or_default();
    let mounts = document["mountOptions"].as_array();
    let recursive = mounts.is_some_and(|all| all.iter().any(|option| option == "rro"));
    let namespaces = document["linux"]["namespaces"].as_array();
    let user = namespaces.is_some_and(|all| all.iter().any(|namespace| namespace == "user"));
    let idmap = document["linux"]["mountExtensions"]["idmap"]["enabled"] == true;
    RuntimeHandlerFeatures { recursive_read_only_mounts: recursive, user_namespaces: user && idmap }
}
