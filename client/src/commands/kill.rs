//! `gantry kill`

use client::{Client, ClientError};
use nix::sys::signal::Signal;

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The signal, by name or number.
    #[arg(short, long, default_value = "KILL", value_parser = signal)]
    signal: u32,
    /// Send it to every process of the container.
    #[arg(short, long)]
    all: bool,
    /// The containers.
    #[arg(required = true)]
    ids: Vec<String>,
}

pub(crate) async fn run(client: &Client, arguments: &Arguments) -> Result<u8, ClientError> {
    for id in &arguments.ids {
        client.process(id, "").kill(arguments.signal, arguments.all).await?;
    }
    Ok(0)
}

/// A signal's number, from its number or its name, with SIG or without.
pub(crate) fn signal(text: &str) -> Result<u32, String> {
    if let Ok(number) = text.parse::<u32>() {
        return if (1..=64).contains(&number) {
            Ok(number)
        } else {
            Err(format!("there is no signal {number}: 1 to 64"))
        };
    }
    let upper = text.to_ascii_uppercase();
    let name = if upper.starts_with("SIG") { upper } else { format!("SIG{upper}") };
    let known: Signal = name.parse().map_err(|_| format!("there is no signal {text:?}"))?;
    Ok((known as i32).unsigned_abs())
}

#[cfg(test)]
mod tests {
    use super::signal;

    #[test]
    fn signals_by_name_and_number() {
        for (text, expected) in
            [("9", Some(9)), ("KILL", Some(9)), ("sigterm", Some(15)), ("0", None), ("65", None), ("none", None)]
        {
            assert_eq!(signal(text).ok(), expected, "{text}");
        }
    }
}
