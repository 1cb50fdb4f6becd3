//! `user[:group]` to numbers, by the files of the image. Never by the files of the host.

use crate::ClientError;

/// Who a process runs as.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct User {
    /// The user's number.
    pub uid: u32,
    /// The group's number.
    pub gid: u32,
    /// Other groups.
    pub additional_gids: Vec<u32>,
}

/// Whether `text` needs the image's files to be understood.
pub fn needs_files(text: &str) -> bool {
    !text.is_empty() && text != "0" && text != "0:0"
}

/// Reads `user[:group]` with the contents of the image's `/etc/passwd` and `/etc/group`.
///
/// A number that is no user number is an error, never a name and never user 0 (security: CVE-2026-30892, CVE-2024-40635).
///
/// # Errors
/// When a name is not in the files, or a number is out of range.
pub fn resolve(text: &str, passwd: &str, group: &str) -> Result<User, ClientError> {
    if text.is_empty() {
        return Ok(User::default());
    }
    let (user, wanted_group) = match text.split_once(':') {
        Some((user, group)) => (user, Some(group)),
        None => (text, None),
    };
    let lines = || passwd.lines().map(|line| line.split(':').collect::<Vec<_>>()).filter(|fields| fields.len() >= 4);
    let (uid, entry) = match number(user)? {
        Some(uid) => (uid, lines().find(|fields| fields[2] == user)),
        None => {
            let entry = lines()
                .find(|fields| fields[0] == user)
                .ok_or_else(|| ClientError::Invalid(format!("user {user:?} is not in the image's /etc/passwd")))?;
            (field(entry[2], "user", user)?, Some(entry))
        }
    };
    let name = entry.as_ref().map(|fields| fields[0].to_owned());
    let groups = || group.lines().map(|line| line.split(':').collect::<Vec<_>>()).filter(|fields| fields.len() >= 3);
    if let Some(wanted) = wanted_group {
        let gid = match number(wanted)? {
            Some(gid) => gid,
            None => {
                let found = groups().find(|fields| fields[0] == wanted);
                field(
                    found.ok_or_else(|| {
                        ClientError::Invalid(format!("group {wanted:?} is not in the image's /etc/group"))
                    })?[2],
                    "group",
                    wanted,
                )?
            }
        };
        return Ok(User { uid, gid, additional_gids: Vec::new() });
    }
    let gid = entry.map(|fields| field(fields[3], "user", user)).transpose()?.unwrap_or(0);
    let mut additional_gids = Vec::new();
    for fields in groups() {
        let member = name
            .as_deref()
            .is_some_and(|name| fields.get(3).is_some_and(|members| members.split(',').any(|member| member == name)));
        if member {
            additional_gids.push(field(fields[2], "group", fields[0])?);
        }
    }
    Ok(User { uid, gid, additional_gids })
}

/// The number `text` is, `None` if it is a name. What looks like a number but is none is refused.
fn number(text: &str) -> Result<Option<u32>, ClientError> {
    let first = text.bytes().next();
    if text.bytes().all(|b| b.is_ascii_digit()) && first.is_some() {
        // The kernel keeps the largest number for "no change" (setresuid(2)).
        return match text.parse::<u32>() {
            Ok(number) if number != u32::MAX => Ok(Some(number)),
            _ => Err(ClientError::Invalid(format!("{text:?} is not a user or group number: 0 to 4294967294"))),
        };
    }
    if first.is_none_or(|b| b.is_ascii_digit() || matches!(b, b'+' | b'-') || b.is_ascii_whitespace()) {
        return Err(ClientError::Invalid(format!("{text:?} is neither a user or group number nor a name")));
    }
    Ok(None)
}

fn field(text: &str, what: &str, name: &str) -> Result<u32, ClientError> {
    text.parse()
        .map_err(|_| ClientError::Invalid(format!("the image's entry of {what} {name:?} has no number: {text:?}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nweb:x:33:34::/:/bin/sh\n";
    const GROUP: &str = "root:x:0:\nwheel:x:10:root,web\nlog:x:11:web\n";

    fn ids(text: &str) -> Option<(u32, u32, Vec<u32>)> {
        resolve(text, PASSWD, GROUP).ok().map(|user| (user.uid, user.gid, user.additional_gids))
    }

    #[test]
    fn users_as_a_table() {
        for (text, expected) in [
            ("", Some((0, 0, vec![]))),
            ("0", Some((0, 0, vec![10]))),
            ("web", Some((33, 34, vec![10, 11]))),
            ("33", Some((33, 34, vec![10, 11]))),
            ("web:log", Some((33, 11, vec![]))),
            ("1000", Some((1000, 0, vec![]))),
            ("1000:1001", Some((1000, 1001, vec![]))),
            ("4294967294", Some((4_294_967_294, 0, vec![]))),
            ("4294967295", None),
            ("4294967296", None),
            ("-1", None),
            ("+0", None),
            (" 0", None),
            ("0x0", None),
            ("nobody", None),
            ("web:none", None),
            (":0", None),
        ] {
            assert_eq!(ids(text), expected, "{text:?}");
        }
    }
}
