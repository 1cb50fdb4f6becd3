//! `gantry doctor`

use std::path::PathBuf;
use std::process::Command;

use client::{Client, ClientError};
use proto::gantry::v1::examine_response::What;
use proto::gantry::v1::finding::Kind;
use proto::gantry::v1::{ExamineRequest, Finding};
use serde_json::{Value, json};

use crate::output::{self, Format};

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Read all blobs and compare them with their digests.
    #[arg(long)]
    verify: bool,
    /// Mend what can be mended safely; nothing is removed on doubt.
    #[arg(long)]
    repair: bool,
    /// Examine the folders of a daemon that is stopped: its root.
    #[arg(long, requires = "state")]
    pub(crate) root: Option<PathBuf>,
    /// Its state folder.
    #[arg(long, requires = "root")]
    state: Option<PathBuf>,
}

/// The exit code when something is wrong.
const UNWELL: u8 = 1;

/// Examines the folders of a stopped daemon, which only the daemon's own program can read.
pub(crate) fn offline(arguments: &Arguments, format: Format) -> Result<u8, ClientError> {
    let beside = std::env::current_exe().ok().map(|own| own.with_file_name("gantryd")).filter(|path| path.exists());
    let mut command = Command::new(beside.unwrap_or_else(|| "gantryd".into()));
    for (flag, folder) in [("--root", &arguments.root), ("--state", &arguments.state)] {
        if let Some(folder) = folder {
            command.arg(flag).arg(folder);
        }
    }
    command.arg("doctor");
    for (flag, wanted) in
        [("--verify", arguments.verify), ("--repair", arguments.repair), ("--json", format == Format::Json)]
    {
        if wanted {
            command.arg(flag);
        }
    }
    let status = command.status().map_err(|error| ClientError::Invalid(format!("cannot start gantryd: {error}")))?;
    Ok(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(UNWELL))
}

pub(crate) async fn run(client: &Client, arguments: &Arguments, format: Format) -> Result<u8, ClientError> {
    let request = ExamineRequest { verify: arguments.verify, repair: arguments.repair };
    let mut stream = client.doctor().examine(request).await?.into_inner();
    let mut accounts = Vec::new();
    let mut resources = Vec::new();
    let mut findings = Vec::new();
    let mut summary = None;
    while let Some(message) = stream.message().await? {
        match message.what {
            Some(What::Account(account)) => accounts.push(account),
            Some(What::Resource(resource)) => resources.push(resource),
            Some(What::Finding(finding)) => findings.push(finding),
            Some(What::Summary(last)) => summary = Some(last),
            None => {}
        }
    }
    let summary = summary.ok_or(ClientError::Incomplete("the summary of the examination"))?;
    if format == Format::Json {
        output::json(&json!({
            "accounts": accounts.iter().map(|account| json!({
                "path": account.path, "owner": account.owner, "bytes": account.bytes, "files": account.files,
            })).collect::<Vec<_>>(),
            "resources": resources.iter().map(|resource| json!({
                "kind": resource.kind, "name": resource.name, "owner": resource.owner,
            })).collect::<Vec<_>>(),
            "findings": findings.iter().map(as_json).collect::<Vec<_>>(),
            "summary": {
                "findings": summary.findings, "repaired": summary.repaired, "bytes": summary.bytes,
                "owned_bytes": summary.owned_bytes, "verified": summary.verified,
            },
        }));
    } else {
        let owner = |name: &str| if name.is_empty() { "(nobody)".to_owned() } else { name.to_owned() };
        output::rows(
            format,
            &["PATH", "SIZE", "FILES", "OWNER"],
            &Rows::of(&accounts, |account| {
                let size = output::size(i64::try_from(account.bytes).unwrap_or(i64::MAX));
                vec![account.path.clone(), size, account.files.to_string(), owner(&account.owner)]
            }),
            Clone::clone,
        );
        if !resources.is_empty() {
            output::line("");
            output::rows(
                format,
                &["KIND", "NAME", "OWNER"],
                &Rows::of(&resources, |resource| {
                    vec![resource.kind.clone(), resource.name.clone(), owner(&resource.owner)]
                }),
                Clone::clone,
            );
        }
        output::line("");
        for finding in &findings {
            output::line(&format!("{} {}", word(finding.kind()), finding.subject));
            output::line(&format!("    {}", finding.sentence));
            match (finding.done.as_str(), finding.remedy.as_str()) {
                ("", "") => {}
                ("", remedy) => output::line(&format!("    --repair would: {remedy}")),
                (done, _) => output::line(&format!("    repair: {done}")),
            }
        }
        let verified = if arguments.verify { format!("; {} blobs verified", summary.verified) } else { String::new() };
        let size = |bytes: u64| output::size(i64::try_from(bytes).unwrap_or(i64::MAX));
        output::line(&format!(
            "{} findings, {} repaired; {} of {} have an owner{verified}",
            summary.findings,
            summary.repaired,
            size(summary.owned_bytes),
            size(summary.bytes)
        ));
    }
    Ok(if summary.findings > summary.repaired { UNWELL } else { 0 })
}

/// Rows of text.
struct Rows;

impl Rows {
    fn of<T>(all: &[T], row: impl Fn(&T) -> Vec<String>) -> Vec<Vec<String>> {
        all.iter().map(row).collect()
    }
}

fn as_json(finding: &Finding) -> Value {
    json!({
        "kind": word(finding.kind()), "subject": finding.subject, "sentence": finding.sentence,
        "remedy": finding.remedy, "done": finding.done,
    })
}

fn word(kind: Kind) -> &'static str {
    match kind {
        Kind::Missing => "missing",
        Kind::Corrupt => "corrupt",
        Kind::Orphaned => "orphaned",
        Kind::Wedged => "wedged",
        Kind::Unreadable => "unreadable",
        Kind::Unspecified => "odd",
    }
}
