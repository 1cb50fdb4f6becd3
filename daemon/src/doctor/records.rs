//! Records: what they name and is missing, what is there and unrecorded, and whose bytes are wrong.

use std::fs;
use std::io::Read as _;
use std::path::PathBuf;

use model::Digest;
use model::digest::Hasher;
use proto::gantry::v1::finding::Kind;
use store::check::Finding;
use store::{Read, StoreError, Tx, key, tables};

use super::{Doctor, Flow, Found, Report};

/// How much of a blob is read at a time, in bytes.
const PIECE: usize = 1 << 20;

/// Labels that say what a blob refers to begin so.
const REFERENCE: &str = "containerd.io/gc.ref.";

pub(super) fn look(doctor: &Doctor, report: &mut Report<'_>) -> Flow {
    let first = match store::check::check(&doctor.store.read(), &doctor.blobs) {
        Ok(findings) => findings,
        Err(error) => {
            let sentence = format!("The records cannot be checked: {error}.");
            return report.finding(Found::new(Kind::Unreadable, "metadata", sentence));
        }
    };
    if first.is_empty() {
        return Flow::Continue(());
    }
    // What a request has under way at this moment is no finding.
    let second = store::check::check(&doctor.store.read(), &doctor.blobs).unwrap_or_default();
    for finding in first.into_iter().filter(|finding| second.contains(finding)) {
        report.finding(explain(doctor, finding))?;
    }
    Flow::Continue(())
}

fn explain(doctor: &Doctor, finding: Finding) -> Found<'_> {
    match finding {
        Finding::Unreadable { error } => {
            let sentence =
                "The record cannot be read; what it was about is lost, everything else is not touched by it.";
            Found::new(Kind::Unreadable, error, sentence)
        }
        Finding::MissingBlob { namespace, digest, found, .. } => {
            let what = if found.is_some() { "has another size than it should" } else { "has no file" };
            let sentence = format!(
                "Content {digest} of namespace {namespace} {what}; pulls take it for present and images that need it cannot be \
                 unpacked."
            );
            let found = Found::new(Kind::Missing, format!("content {digest}"), sentence);
            let Ok(digest) = digest.parse::<Digest>() else { return found };
            if !is_leaf(doctor, &digest) {
                return found;
            }
            found.mended_by("forget it, so that the next pull fetches it again", move || give_up(doctor, &digest))
        }
        Finding::Dangling { table, key, names } => {
            let sentence = format!("The record {key} of {table} names {names}, which does not exist.");
            Found::new(Kind::Missing, format!("{table} {key}"), sentence)
        }
        Finding::Index { table, key } => {
            let sentence = format!("The entry {key} of {table} has no counterpart in the table it belongs to.");
            Found::new(Kind::Corrupt, format!("{table} {key}"), sentence)
        }
        Finding::UnownedBlob { digest, size } => {
            let sentence = format!("Content {digest} of {size} bytes is in no namespace; collection removes it.");
            Found::new(Kind::Orphaned, format!("content {digest}"), sentence)
        }
        Finding::Stray { path } => {
            let sentence = "No part of the daemon would have left this file here, unless it was killed.";
            let found = Found::new(Kind::Orphaned, path.display(), sentence);
            if path.parent().is_none_or(|folder| folder.file_name().is_none_or(|name| name != "ingest")) {
                return found;
            }
            found.mended_by("remove the upload that nobody can resume", move || {
                match doctor.blobs.remove_stray_ingests() {
                    Ok(_) if !path.exists() => Ok("removed".to_owned()),
                    Ok(_) => Err("it is in use".to_owned()),
                    Err(error) => Err(error.to_string()),
                }
            })
        }
    }
}

/// Reads every blob and compares it with its name.
pub(super) fn verify(doctor: &Doctor, report: &mut Report<'_>) -> Flow {
    let blobs = match doctor.blobs.walk() {
        Ok(blobs) => blobs,
        Err(error) => {
            let sentence = format!("The blobs cannot be listed: {error}.");
            return report.finding(Found::new(Kind::Unreadable, "content", sentence));
        }
    };
    for blob in blobs.flatten() {
        let digest = blob.digest;
        match hash(doctor, &digest) {
            Ok(None) => {}
            Ok(Some(found)) if found == digest => report.summary.verified += 1,
            Ok(Some(found)) => {
                report.summary.verified += 1;
                let sentence =
                    format!("The bytes of content {digest} hash to {found}: the disk changed them, or somebody did.");
                let found = Found::new(Kind::Corrupt, doctor.blobs.path(&digest).display(), sentence);
                let found = if is_leaf(doctor, &digest) {
                    let remedy = "move the file aside and forget it, so that the next pull fetches it again";
                    found.mended_by(remedy, move || give_up(doctor, &digest))
                } else {
                    found
                };
                report.finding(found)?;
            }
            Err(error) => {
                let sentence = format!("The bytes of content {digest} cannot be read: {error}.");
                let found = Found::new(Kind::Unreadable, doctor.blobs.path(&digest).display(), sentence);
                report.finding(found)?;
            }
        }
    }
    Flow::Continue(())
}

/// The digest of what is on disk; nothing if it is gone by now.
fn hash(doctor: &Doctor, digest: &Digest) -> std::io::Result<Option<Digest>> {
    let mut file = match fs::File::open(doctor.blobs.path(digest)) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        file => file?,
    };
    let (mut hasher, mut piece) = (Hasher::new(digest.algorithm()), vec![0; PIECE]);
    loop {
        match file.read(&mut piece)? {
            0 => return Ok(Some(hasher.finish())),
            count => hasher.update(&piece[..count]),
        }
    }
}

/// Whether nothing hangs on a blob in any namespace: it is a layer, and no document whose references hold other things.
fn is_leaf(doctor: &Doctor, digest: &Digest) -> bool {
    let read = doctor.store.read();
    holders(&read, digest).is_ok_and(|holders| {
        holders.iter().all(|namespace| {
            let record = key(&[namespace, digest.as_str()]).and_then(|key| read.get(&tables::CONTENT, &key));
            record.is_ok_and(|record| {
                record.is_none_or(|record| !record.labels.keys().any(|label| label.starts_with(REFERENCE)))
            })
        })
    })
}

fn holders(read: &impl Read, digest: &Digest) -> Result<Vec<String>, StoreError> {
    let keys = read.keys(&tables::BLOB_HOLDERS, &store::prefix(&[digest.as_str()])?)?;
    Ok(keys.iter().filter_map(|key| store::last_part(key).map(str::to_owned)).collect())
}

/// Moves the file of a blob aside, if there is one, and forgets the blob in every namespace.
fn give_up(doctor: &Doctor, digest: &Digest) -> Result<String, String> {
    let words = |error: &dyn std::fmt::Display| error.to_string();
    let path = doctor.blobs.path(digest);
    let aside: PathBuf = doctor.config.root.join("aside");
    let mut said = String::new();
    if path.exists() {
        fs::create_dir_all(&aside).map_err(|error| words(&error))?;
        let to = aside.join(format!("{}-{}", digest.algorithm().name(), digest.hex()));
        fs::rename(&path, &to).map_err(|error| words(&error))?;
        said = format!("moved to {}, and ", to.display());
    }
    let of = digest.clone();
    let forget = move |tx: &mut Tx<'_>| {
        for namespace in holders(tx, &of)? {
            tx.delete(&tables::CONTENT, &key(&[&namespace, of.as_str()])?)?;
            tx.delete(&tables::BLOB_HOLDERS, &key(&[of.as_str(), &namespace])?)?;
        }
        Ok::<_, StoreError>(())
    };
    doctor.store.write(forget).map_err(|error| words(&error))?;
    Ok(format!("{said}forgotten in every namespace; pull the image again"))
}
