//! How images that come out of an archive are called. Pure.

use std::collections::BTreeMap;

use model::Digest;

/// The annotation by which containerd's tools keep the whole name.
pub const ANNOTATION_NAME: &str = "io.containerd.image.name";

/// The annotation by which OCI layouts keep a tag, or whatever the tool that made it was told.
pub const ANNOTATION_REF: &str = "org.opencontainers.image.ref.name";

/// How to name what an archive has.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Naming {
    /// A whole name, or the beginning of names.
    pub name: String,
    /// Whether it is only the beginning.
    pub is_prefix: bool,
    /// Whether names in the archive that begin otherwise are taken too.
    pub allow_overwrite: bool,
    /// Whether to add a name that ends in the digest.
    pub add_digest: bool,
    /// Whether that one is made only where the archive has no name.
    pub skip_named_digest: bool,
}

/// The names of an image of an archive; none if it is not to be recorded. `fallback` is the beginning of the name of what has
/// none, used when the client does not say how to name anything.
pub fn of_entry(
    annotations: &BTreeMap<String, String>,
    digest: &Digest,
    namings: &[Naming],
    fallback: &str,
) -> Vec<String> {
    let kept = annotations.get(ANNOTATION_NAME).filter(|name| !name.is_empty());
    let reference = annotations.get(ANNOTATION_REF).filter(|name| !name.is_empty());
    if namings.is_empty() {
        let name = match (kept, reference) {
            (Some(name), _) => name.clone(),
            (None, Some(tag)) if is_tag(tag) => format!("{fallback}:{tag}"),
            (None, Some(name)) => normalized(name),
            (None, None) => format!("{fallback}@{digest}"),
        };
        return vec![name];
    }
    let mut names = Vec::new();
    for naming in namings.iter().filter(|naming| naming.is_prefix) {
        let prefix = &naming.name;
        let name = match (kept, reference) {
            (Some(name), _) => Some(name.clone()),
            (None, Some(tag)) if is_tag(tag) => Some(format!("{prefix}:{tag}")),
            (None, Some(name)) if naming.allow_overwrite || begins_with(name, prefix) => Some(name.clone()),
            (None, _) => None,
        };
        if naming.add_digest && !(name.is_some() && naming.skip_named_digest) {
            names.push(format!("{prefix}@{digest}"));
        }
        names.extend(name);
    }
    names
}

/// The names of an archive as a whole, or of an image that is pulled.
pub fn of_whole(name: &str, digest: &Digest, namings: &[Naming]) -> Vec<String> {
    let more = namings.iter().filter(|naming| !naming.is_prefix).map(|naming| match naming.add_digest {
        true => format!("{}@{digest}", naming.name),
        false => naming.name.clone(),
    });
    let mut names: Vec<String> = std::iter::once(name.to_owned()).filter(|name| !name.is_empty()).chain(more).collect();
    names.dedup();
    names
}

/// A name as Docker's tools write it, as everybody else does: `busybox` is `docker.io/library/busybox:latest`.
pub fn normalized(familiar: &str) -> String {
    let is_host =
        |part: &str| part.contains(['.', ':']) || part == "localhost" || part.bytes().any(|b| b.is_ascii_uppercase());
    let (host, rest) = match familiar.split_once('/') {
        Some((host, rest)) if is_host(host) => (host, rest.to_owned()),
        Some(_) => ("docker.io", familiar.to_owned()),
        None => ("docker.io", format!("library/{familiar}")),
    };
    let host = if host == "index.docker.io" { "docker.io" } else { host };
    let rest = if host == "docker.io" && !rest.contains('/') { format!("library/{rest}") } else { rest };
    let last = rest.rsplit('/').next().unwrap_or_default();
    if last.contains([':', '@']) { format!("{host}/{rest}") } else { format!("{host}/{rest}:latest") }
}

/// The tag of a name, or the whole if it has none.
pub fn tag(name: &str) -> &str {
    let without_digest = name.split_once('@').map_or(name, |(name, _)| name);
    match without_digest.rsplit_once(':') {
        Some((_, tag)) if is_tag(tag) => tag,
        _ => name,
    }
}

fn is_tag(text: &str) -> bool {
    !text.contains(['/', ':', '@'])
}

/// Whether a name is `prefix` with nothing but a path, tag or digest behind it.
fn begins_with(name: &str, prefix: &str) -> bool {
    name.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with(['/', ':', '@']))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn familiar_names_become_whole() {
        for (familiar, whole) in [
            ("busybox", "docker.io/library/busybox:latest"),
            ("busybox:1.36", "docker.io/library/busybox:1.36"),
            ("user/app", "docker.io/user/app:latest"),
            ("docker.io/busybox:1", "docker.io/library/busybox:1"),
            ("index.docker.io/library/busybox", "docker.io/library/busybox:latest"),
            ("localhost/app", "localhost/app:latest"),
            ("127.0.0.1:5000/a/b:c", "127.0.0.1:5000/a/b:c"),
            ("r.example/a@sha256:0", "r.example/a@sha256:0"),
        ] {
            assert_eq!(normalized(familiar), whole);
        }
    }

    #[test]
    fn names_come_from_the_archive_or_the_client() {
        let digest = Digest::sha256(b"x");
        let at = |prefix: &str| format!("{prefix}@{digest}");
        let annotated = |key: &str, value: &str| BTreeMap::from([(key.to_owned(), value.to_owned())]);
        let prefix = Naming { name: "r.example/a".into(), is_prefix: true, ..Naming::default() };
        let digests = Naming { add_digest: true, ..prefix.clone() };
        let unnamed = Naming { skip_named_digest: true, ..digests.clone() };
        let any = Naming { allow_overwrite: true, ..prefix.clone() };
        for (annotations, namings, names) in [
            (BTreeMap::new(), vec![], vec![at("i")]),
            (annotated(ANNOTATION_REF, "v1"), vec![], vec!["i:v1".to_owned()]),
            (annotated(ANNOTATION_REF, "busybox:v1"), vec![], vec!["docker.io/library/busybox:v1".to_owned()]),
            (annotated(ANNOTATION_NAME, "x/y:z"), vec![], vec!["x/y:z".to_owned()]),
            (annotated(ANNOTATION_REF, "v1"), vec![prefix.clone()], vec!["r.example/a:v1".to_owned()]),
            (annotated(ANNOTATION_REF, "r.example/a:v1"), vec![prefix.clone()], vec!["r.example/a:v1".to_owned()]),
            (annotated(ANNOTATION_REF, "r.example/ab:v1"), vec![prefix.clone()], vec![]),
            (annotated(ANNOTATION_REF, "r.example/ab:v1"), vec![any], vec!["r.example/ab:v1".to_owned()]),
            (BTreeMap::new(), vec![prefix], vec![]),
            (BTreeMap::new(), vec![unnamed.clone()], vec![at("r.example/a")]),
            (annotated(ANNOTATION_REF, "v1"), vec![unnamed], vec!["r.example/a:v1".to_owned()]),
            (annotated(ANNOTATION_REF, "v1"), vec![digests], vec![at("r.example/a"), "r.example/a:v1".to_owned()]),
        ] {
            assert_eq!(of_entry(&annotations, &digest, &namings, "i"), names, "{annotations:?} {namings:?}");
        }
    }

    #[test]
    fn a_tag_is_found() {
        assert_eq!(tag("127.0.0.1:5000/a/b:c"), "c");
        assert_eq!(tag("127.0.0.1:5000/a/b"), "127.0.0.1:5000/a/b");
        assert_eq!(tag("r.example/a:t@sha256:0"), "t");
    }
}
