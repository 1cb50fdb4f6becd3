//! The process of a container: command, environment, working folder. Pure.

use proto::cri::{ContainerConfig, KeyValue};

use super::{ImageConfig, SpecError};

/// Where programs are looked for if neither the image nor the pod says it.
const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The command line: the pod's command, or the image's; the pod's arguments, or the image's if the command is the image's too.
///
/// # Errors
/// There is none at all.
pub(crate) fn args(config: &ContainerConfig, image: &ImageConfig) -> Result<Vec<String>, SpecError> {
    let (command, args) = match (config.command.is_empty(), config.args.is_empty()) {
        (true, true) => (&image.entrypoint, &image.cmd),
        (true, false) => (&image.entrypoint, &config.args),
        (false, _) => (&config.command, &config.args),
    };
    if command.is_empty() && args.is_empty() {
        return Err(SpecError::invalid("no command specified"));
    }
    let line: Vec<String> = command.iter().chain(args).cloned().collect();
    match line.iter().find(|word| word.contains('\0')) {
        Some(word) => Err(SpecError::invalid(format!("the command has a NUL byte: {word:?}"))),
        None => Ok(line),
    }
}

/// The environment: what is always there, then the image's, then the pod's; the last of each name wins and keeps the place of
/// the first.
///
/// # Errors
/// A variable has no name, or its value cannot be said in a specification.
pub(crate) fn env(config: &ContainerConfig, image: &ImageConfig, hostname: &str) -> Result<Vec<String>, SpecError> {
    let mut lines = vec![PATH.to_owned()];
    if config.tty {
        lines.push("TERM=xterm".to_owned());
    }
    for line in &image.env {
        put(&mut lines, line.clone());
    }
    if !hostname.is_empty() {
        put(&mut lines, format!("HOSTNAME={hostname}"));
    }
    for KeyValue { key, value } in &config.envs {
        if key.is_empty() || key.contains(['=', '\0']) {
            return Err(SpecError::invalid(format!("{key:?} is no name of an environment variable")));
        }
        let value = std::str::from_utf8(value).ok().filter(|value| !value.contains('\0')).ok_or_else(|| {
            SpecError::invalid(format!("the value of the environment variable {key:?} is not UTF-8 without NUL"))
        })?;
        put(&mut lines, format!("{key}={value}"));
    }
    Ok(lines)
}

fn put(lines: &mut Vec<String>, line: String) {
    let name = |line: &str| line.split_once('=').map_or(line.len(), |(name, _)| name.len());
    let length = name(&line);
    match lines.iter_mut().find(|known| name(known) == length && known[..length] == line[..length]) {
        Some(known) => *known = line,
        None => lines.push(line),
    }
}

/// The working folder: the pod's, the image's, or the root.
///
/// # Errors
/// It is not absolute.
pub(crate) fn cwd(config: &ContainerConfig, image: &ImageConfig) -> Result<String, SpecError> {
    let cwd = [&config.working_dir, &image.working_dir].into_iter().find(|cwd| !cwd.is_empty());
    let cwd = cwd.map_or("/", String::as_str);
    if !cwd.starts_with('/') || cwd.contains('\0') {
        return Err(SpecError::invalid(format!("the working directory {cwd:?} is not absolute")));
    }
    Ok(cwd.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(words: &str) -> Vec<String> {
        words.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn commands_as_a_table() {
        for (command, args_, entrypoint, cmd, expected) in [
            ("", "", "/e", "c", Some("/e c")),
            ("", "x", "/e", "c", Some("/e x")),
            ("/p", "", "/e", "c", Some("/p")),
            ("/p", "x y", "/e", "c", Some("/p x y")),
            ("", "x", "", "", Some("x")),
            ("", "", "", "c", Some("c")),
            ("", "", "", "", None),
        ] {
            let config = ContainerConfig { command: list(command), args: list(args_), ..Default::default() };
            let image = ImageConfig { entrypoint: list(entrypoint), cmd: list(cmd), ..Default::default() };
            assert_eq!(args(&config, &image).ok(), expected.map(list), "{command}|{args_}|{entrypoint}|{cmd}");
        }
    }

    #[test]
    fn the_last_value_of_a_variable_wins_in_the_first_place() {
        let envs = [("B", "3"), ("C", "a=b"), ("HOSTNAME", "h2")];
        let envs = envs.map(|(key, value)| KeyValue { key: key.into(), value: value.into() }).to_vec();
        let config = ContainerConfig { envs, tty: true, ..Default::default() };
        let image = ImageConfig { env: list("A=1 B=2 PATH=/b TERM=vt"), ..Default::default() };
        let expected = list("PATH=/b TERM=vt A=1 B=3 HOSTNAME=h2 C=a=b");
        assert_eq!(env(&config, &image, "h1").unwrap(), expected);
    }

    #[test]
    fn variables_that_cannot_be_said_are_refused() {
        for (key, value) in [("", &b"1"[..]), ("A=B", b"1"), ("A", b"\xff"), ("A", b"1\0"), ("A\0", b"")] {
            let envs = vec![KeyValue { key: key.into(), value: value.into() }];
            let config = ContainerConfig { envs, ..Default::default() };
            assert!(env(&config, &ImageConfig::default(), "").is_err(), "{key:?} {value:?}");
        }
    }

    #[test]
    fn working_folders_as_a_table() {
        for (pod, image, expected) in
            [("", "", Some("/")), ("", "/i", Some("/i")), ("/p", "/i", Some("/p")), ("p", "/i", None), ("", "i", None)]
        {
            let config = ContainerConfig { working_dir: pod.into(), ..Default::default() };
            let image = ImageConfig { working_dir: image.into(), ..Default::default() };
            assert_eq!(cwd(&config, &image).ok().as_deref(), expected, "{pod} {image:?}");
        }
    }
}
