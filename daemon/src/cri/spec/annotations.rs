//! Annotations of a container's specification: what shims and hooks are told of the pod. Pure.

use std::collections::BTreeMap;

use proto::cri::{ContainerConfig, PodSandboxConfig};

/// Keys that are containerd's, which shims know.
const PREFIX: &str = "io.kubernetes.cri.";

/// The annotations that every container has.
pub(crate) fn standard(
    sandbox: &str,
    pod: &PodSandboxConfig,
    config: &ContainerConfig,
    image_name: &str,
) -> BTreeMap<String, String> {
    let metadata = pod.metadata.clone().unwrap_or_default();
    let name = config.metadata.clone().unwrap_or_default().name;
    [
        ("container-type", "container".to_owned()),
        ("sandbox-id", sandbox.to_owned()),
        ("sandbox-name", metadata.name),
        ("sandbox-namespace", metadata.namespace),
        ("sandbox-uid", metadata.uid),
        ("container-name", name),
        ("image-name", image_name.to_owned()),
    ]
    .into_iter()
    .map(|(key, value)| (format!("{PREFIX}{key}"), value))
    .collect()
}

/// Those of `annotations` whose key one of the handler's patterns fits.
pub(crate) fn passed<'a>(
    annotations: &'a BTreeMap<String, String>,
    patterns: &'a [String],
) -> impl Iterator<Item = (String, String)> + 'a {
    let fits = |key: &str| patterns.iter().any(|pattern| matches(pattern.as_bytes(), key.as_bytes()));
    annotations.iter().filter(move |(key, _)| fits(key)).map(|(key, value)| (key.clone(), value.clone()))
}

/// Whether a pattern fits: `*` is any number of characters but `/`, `?` one of them, `[a-c]` one of a set, `\` takes the next as it is.
fn matches(pattern: &[u8], text: &[u8]) -> bool {
    // Where the last star was, and where it is tried from next: no recursion, so that no pattern costs more than a square.
    let (mut p, mut t, mut star) = (0, 0, None);
    loop {
        if p == pattern.len() && t == text.len() {
            return true;
        }
        if pattern.get(p) == Some(&b'*') {
            star = Some((p + 1, t));
            p += 1;
            continue;
        }
        match text.get(t).and_then(|byte| one(&pattern[p..], *byte)) {
            Some(length) => (p, t) = (p + length, t + 1),
            None => match star {
                Some((after, from)) if from < text.len() && text[from] != b'/' => {
                    star = Some((after, from + 1));
                    (p, t) = (after, from + 1);
                }
                _ => return false,
            },
        }
    }
}

/// How long the first part of the pattern is, if `byte` fits it.
fn one(pattern: &[u8], byte: u8) -> Option<usize> {
    match *pattern.first()? {
        b'?' => (byte != b'/').then_some(1),
        b'\\' => (pattern.get(1) == Some(&byte)).then_some(2),
        b'[' => {
            let end = 2 + pattern.get(2..)?.iter().position(|byte| *byte == b']')?;
            let (negated, set) = match &pattern[1..end] {
                [b'^', set @ ..] => (true, set),
                set => (false, set),
            };
            let mut found = false;
            let mut at = 0;
            while at < set.len() {
                if at + 2 < set.len() && set[at + 1] == b'-' {
                    found |= (set[at]..=set[at + 2]).contains(&byte);
                    at += 3;
                } else {
                    found |= set[at] == byte;
                    at += 1;
                }
            }
            (found != negated && byte != b'/').then_some(end + 1)
        }
        literal => (literal == byte).then_some(1),
    }
}

#[cfg(test)]
mod tests {
    use proto::cri::{ContainerMetadata, PodSandboxMetadata};

    use super::*;

    #[test]
    fn patterns_as_a_table() {
        for (pattern, text, fits) in [
            ("*", "anything.else", true),
            ("*", "a/b", false),
            ("io.katacontainers.*", "io.katacontainers.config.x", true),
            ("io.katacontainers.*", "io.kata", false),
            ("a/*", "a/b", true),
            ("a*c", "abbbc", true),
            ("a*b*c", "a1b2bc", true),
            ("a?c", "abc", true),
            ("a?c", "a/c", false),
            ("[a-c]x", "bx", true),
            ("[^a-c]x", "bx", false),
            ("[^a-c]x", "dx", true),
            ("a\\*", "a*", true),
            ("a\\*", "ab", false),
            ("", "", true),
            ("", "a", false),
            ("[a", "a", false),
            ("*a", "aaab", false),
        ] {
            assert_eq!(matches(pattern.as_bytes(), text.as_bytes()), fits, "{pattern} {text}");
        }
        let long = "a".repeat(4096);
        assert!(!matches("*a*a*a*a*a*b".as_bytes(), long.as_bytes()));
    }

    #[test]
    fn shims_are_told_whose_container_it_is() {
        let metadata = PodSandboxMetadata { name: "p".into(), uid: "u".into(), namespace: "n".into(), attempt: 0 };
        let pod = PodSandboxConfig { metadata: Some(metadata), ..Default::default() };
        let name = ContainerMetadata { name: "c".into(), attempt: 0 };
        let config = ContainerConfig { metadata: Some(name), ..Default::default() };
        let made = standard("id", &pod, &config, "image");
        let values: Vec<_> = made.values().map(String::as_str).collect();
        assert_eq!(values, ["c", "container", "image", "id", "p", "n", "u"]);
        assert!(made.contains_key("io.kubernetes.cri.sandbox-id"));
    }

    #[test]
    fn only_what_a_pattern_fits_is_passed() {
        let annotations = [("a.b", "1"), ("c", "2")].map(|(key, value)| (key.to_owned(), value.to_owned())).into();
        assert_eq!(passed(&annotations, &["a.*".into()]).collect::<Vec<_>>(), [("a.b".to_owned(), "1".to_owned())]);
        assert_eq!(passed(&annotations, &[]).count(), 0);
    }
}
