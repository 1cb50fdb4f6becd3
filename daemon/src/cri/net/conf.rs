//! Which networks are configured: lists of plugins, in files of one folder.

use std::fs;
use std::io::{self, Read as _};
use std::path::Path;

use serde_json::{Value, json};

use super::cni::NetworkError;

/// Files that count.
const ENDINGS: [&str; 3] = ["conf", "conflist", "json"];
/// The largest one that is read, in bytes.
const MAX_BYTES: u64 = 1 << 20;
/// The most that are looked at.
const MAX_FILES: usize = 256;
/// The most plugins of one list.
const MAX_PLUGINS: usize = 64;
/// The version of a configuration that does not say it.
const OLDEST: &str = "0.1.0";

/// A network: plugins that work one after the other.
#[derive(Debug, Clone, PartialEq)]
pub struct List {
    /// Its name.
    pub name: String,
    /// The version of the specification it is for.
    pub version: String,
    /// The plugins.
    pub plugins: Vec<Value>,
    /// All of it, in the form of a list.
    pub document: Value,
    /// The file it is from.
    pub file: String,
}

impl List {
    /// Reads one; a single plugin becomes a list of one.
    ///
    /// # Errors
    /// It is none.
    pub fn parse(text: &str, file: &str) -> Result<Self, NetworkError> {
        let wrong = |why: &str| NetworkError::Configuration { file: file.to_owned(), why: why.to_owned() };
        let mut document: Value = serde_json::from_str(text).map_err(|error| wrong(&error.to_string()))?;
        let name = document["name"].as_str().unwrap_or_default().to_owned();
        if !is_name(&name) {
            return Err(wrong("it has no usable name"));
        }
        let version = document["cniVersion"].as_str().unwrap_or(OLDEST).to_owned();
        if document.get("plugins").is_none() {
            document = json!({ "name": name, "cniVersion": version, "plugins": [document] });
        }
        let plugins = document["plugins"].as_array().cloned().unwrap_or_default();
        if plugins.is_empty() || plugins.len() > MAX_PLUGINS {
            return Err(wrong("a list has one plugin or more"));
        }
        // A type is the name of a program, never a path to one.
        if !plugins.iter().all(|plugin| plugin["type"].as_str().is_some_and(is_program)) {
            return Err(wrong("each plugin has a type"));
        }
        Ok(Self { name, version, plugins, document, file: file.to_owned() })
    }

    /// Whether its version is this one or a later one.
    pub fn is_since(&self, version: [u32; 3]) -> bool {
        let mut parts = self.version.split('.').map(|part| part.parse::<u32>().unwrap_or(0));
        let own = [0; 3].map(|_: i32| parts.next().unwrap_or(0));
        own >= version
    }
}

fn is_name(name: &str) -> bool {
    let mut bytes = name.bytes();
    bytes.next().is_some_and(|first| first.is_ascii_alphanumeric())
        && bytes.all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte))
}

fn is_program(name: &str) -> bool {
    !name.is_empty() && name != "." && name != ".." && !name.contains('/')
}

/// The first `most` networks of a folder, by file name; all with 0. Files that are no networks are passed over.
///
/// # Errors
/// There is none; what is said of the last wrong file is in the text.
pub fn load(folder: &Path, most: usize) -> Result<Vec<List>, NetworkError> {
    let mut names: Vec<_> = match fs::read_dir(folder) {
        Ok(entries) => entries.flatten().map(|entry| entry.path()).take(MAX_FILES).collect(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(error) => {
            return Err(NetworkError::Configuration { file: folder.display().to_string(), why: error.to_string() });
        }
    };
    names.retain(|path| path.extension().is_some_and(|ending| ENDINGS.iter().any(|known| ending == *known)));
    names.sort();
    let (mut lists, mut wrong) = (Vec::new(), None);
    for path in names {
        if most > 0 && lists.len() == most {
            break;
        }
        let file = path.display().to_string();
        let mut text = String::new();
        let read = fs::File::open(&path).and_then(|opened| opened.take(MAX_BYTES).read_to_string(&mut text));
        let list = match read {
            Ok(_) => List::parse(&text, &file),
            Err(error) => Err(NetworkError::Configuration { file, why: error.to_string() }),
        };
        match list {
            Ok(list) => lists.push(list),
            Err(error) => wrong = Some(error),
        }
    }
    match (lists.is_empty(), wrong) {
        (false, _) => Ok(lists),
        (true, Some(error)) => Err(error),
        (true, None) => Err(NetworkError::None { folder: folder.to_owned() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_count_by_name_and_ending() {
        let folder = tempfile::tempdir().unwrap();
        let refused = load(folder.path(), 1).unwrap_err();
        assert!(refused.to_string().contains("no network config found"), "{refused}");
        let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
        write("05-broken.conflist", "{");
        assert!(load(folder.path(), 1).unwrap_err().to_string().contains("05-broken.conflist"));
        write("20-b.conflist", r#"{"name":"b","cniVersion":"1.0.0","plugins":[{"type":"bridge"},{"type":"portmap"}]}"#);
        write("10-a.conf", r#"{"name":"a","cniVersion":"0.4.0","type":"bridge"}"#);
        write("00-readme.txt", "not one");
        let names = |most| load(folder.path(), most).unwrap().into_iter().map(|list| list.name).collect::<Vec<_>>();
        assert_eq!(names(1), ["a"]);
        assert_eq!(names(0), ["a", "b"]);
        let single = &load(folder.path(), 1).unwrap()[0];
        assert_eq!((single.plugins.len(), single.document["plugins"][0]["type"].as_str()), (1, Some("bridge")));
        assert!(single.is_since([0, 4, 0]) && !single.is_since([1, 0, 0]));
    }

    #[test]
    fn what_is_no_list_is_refused() {
        for text in [
            "[]",
            "{}",
            r#"{"name":"a","plugins":[]}"#,
            r#"{"name":"a","plugins":[{}]}"#,
            r#"{"name":"a","type":"../evil"}"#,
            r#"{"name":"../a","type":"b"}"#,
            r#"{"name":"a","plugins":{}}"#,
        ] {
            assert!(List::parse(text, "f").is_err(), "{text}");
        }
    }
}
