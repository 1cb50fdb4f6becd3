//! What is found, for people and for programs, where there is no client to do that.

use proto::gantry::v1::examine_response::What;
use proto::gantry::v1::finding::Kind;
use serde_json::{Value, json};

/// One line for people; nothing for what they would drown in.
pub fn as_text(what: &What) -> Option<String> {
    Some(match what {
        What::Account(account) => {
            let owner = if account.owner.is_empty() { "nobody" } else { &account.owner };
            format!("{:>14} bytes {:>9} files  {}  ({owner})", account.bytes, account.files, account.path)
        }
        What::Resource(resource) => {
            let owner = if resource.owner.is_empty() { "nobody" } else { &resource.owner };
            format!("{:<7} {}  ({owner})", resource.kind, resource.name)
        }
        What::Finding(finding) => {
            let mut text = format!("{} {}: {}", word(finding.kind()), finding.subject, finding.sentence);
            match (finding.done.as_str(), finding.remedy.as_str()) {
                ("", "") => {}
                ("", remedy) => text.push_str(&format!(" With --repair: {remedy}.")),
                (done, _) => text.push_str(&format!(" Repair: {done}.")),
            }
            text
        }
        What::Summary(summary) => format!(
            "{} findings, {} repaired; {} of {} bytes have an owner; {} blobs verified",
            summary.findings, summary.repaired, summary.owned_bytes, summary.bytes, summary.verified
        ),
    })
}

/// One JSON document.
pub fn as_json(what: &What) -> Value {
    match what {
        What::Account(account) => json!({"account": {
            "path": account.path, "owner": account.owner, "bytes": account.bytes, "files": account.files}}),
        What::Resource(resource) => {
            json!({"resource": {"kind": resource.kind, "name": resource.name, "owner": resource.owner}})
        }
        What::Finding(finding) => json!({"finding": {
            "kind": word(finding.kind()), "subject": finding.subject, "sentence": finding.sentence,
            "remedy": finding.remedy, "done": finding.done}}),
        What::Summary(summary) => json!({"summary": {
            "findings": summary.findings, "repaired": summary.repaired, "bytes": summary.bytes,
            "owned_bytes": summary.owned_bytes, "verified": summary.verified}}),
    }
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
