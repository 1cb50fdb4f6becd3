//! Who a process runs as, by the files of the image. Never by the files of the host.
//!
//! What a pod asks for wins over what the image says. A number that is no user number is an error: never a name, never user 0.

use proto::cri::{LinuxContainerSecurityContext, SupplementalGroupsPolicy};

use super::SpecError;

/// The contents of the image's `/etc/passwd` and `/etc/group`; empty if it has none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Accounts {
    /// `/etc/passwd`.
    pub passwd: String,
    /// `/etc/group`.
    pub group: String,
}

/// Who a process runs as.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct User {
    /// The user's number.
    pub uid: u32,
    /// The number of the primary group.
    pub gid: u32,
    /// All groups, the primary one first, each once.
    pub groups: Vec<u32>,
}

struct Passwd<'a> {
    name: &'a str,
    uid: &'a str,
    gid: &'a str,
}

struct Group<'a> {
    name: &'a str,
    gid: &'a str,
    members: &'a str,
}

impl Accounts {
    fn users(&self) -> impl Iterator<Item = Passwd<'_>> {
        self.passwd.lines().filter_map(|line| {
            let mut fields = line.split(':');
            let (name, _, uid, gid) = (fields.next()?, fields.next()?, fields.next()?, fields.next()?);
            Some(Passwd { name, uid, gid })
        })
    }

    fn groups(&self) -> impl Iterator<Item = Group<'_>> {
        self.group.lines().filter_map(|line| {
            let mut fields = line.split(':');
            let (name, _, gid) = (fields.next()?, fields.next()?, fields.next()?);
            Some(Group { name, gid, members: fields.next().unwrap_or_default() })
        })
    }
}

/// Who the container's process runs as.
///
/// # Errors
/// A group is asked for without a user, a name is not in the image's files, a number is out of range.
pub fn resolve(
    security: &LinuxContainerSecurityContext,
    image_user: &str,
    accounts: &Accounts,
) -> Result<User, SpecError> {
    let wanted = wanted(security)?;
    let wanted = if wanted.is_empty() { image_user } else { &wanted };
    let (name, group) = match wanted.split_once(':') {
        Some((name, group)) => (name, Some(group)),
        None => (wanted, None),
    };
    let entry = match name {
        "" if group.is_none() => accounts.users().find(|user| user.uid == "0"),
        _ => None,
    };
    let (uid, entry) = match entry {
        Some(entry) => (0, Some(entry)),
        None if wanted.is_empty() => (0, None),
        None => match number(name)? {
            Some(uid) => {
                let text = uid.to_string();
                (uid, accounts.users().find(|user| user.uid == text))
            }
            None => {
                let found = accounts.users().find(|user| user.name == name);
                let entry = found.ok_or_else(|| SpecError::invalid(format!("user {name:?} is not in the image")))?;
                (field(entry.uid, "user", name)?, Some(entry))
            }
        },
    };
    let gid = match group {
        Some(group) => match number(group)? {
            Some(gid) => gid,
            None => {
                let found = accounts.groups().find(|known| known.name == group);
                let found = found.ok_or_else(|| SpecError::invalid(format!("group {group:?} is not in the image")))?;
                field(found.gid, "group", group)?
            }
        },
        None => entry.as_ref().map_or(Ok(0), |entry| field(entry.gid, "user", entry.name))?,
    };

    let mut groups = vec![gid];
    let mut add = |gid: u32| {
        if !groups.contains(&gid) {
            groups.push(gid);
        }
    };
    let policy = SupplementalGroupsPolicy::try_from(security.supplemental_groups_policy)
        .map_err(|_| SpecError::invalid("unknown supplemental_groups_policy"))?;
    if policy == SupplementalGroupsPolicy::Merge
        && let Some(entry) = &entry
    {
        for group in accounts.groups().filter(|group| group.members.split(',').any(|member| member == entry.name)) {
            add(field(group.gid, "group", group.name)?);
        }
    }
    for group in &security.supplemental_groups {
        add(id(*group, "supplemental_groups")?);
    }
    Ok(User { uid, gid, groups })
}

/// What the pod asks for, as `user[:group]`; empty if nothing.
fn wanted(security: &LinuxContainerSecurityContext) -> Result<String, SpecError> {
    let user = match &security.run_as_user {
        Some(user) => id(user.value, "run_as_user")?.to_string(),
        None => security.run_as_username.clone(),
    };
    if user.contains(':') {
        return Err(SpecError::invalid(format!("run_as_username {user:?} has a colon")));
    }
    match &security.run_as_group {
        None => Ok(user),
        Some(_) if user.is_empty() => Err(SpecError::invalid("run_as_group is set without run_as_user")),
        Some(group) => Ok(format!("{user}:{}", id(group.value, "run_as_group")?)),
    }
}

/// A number of a request.
fn id(value: i64, what: &str) -> Result<u32, SpecError> {
    // The kernel keeps the largest number for "no change" (setresuid(2)).
    let number = u32::try_from(value).ok().filter(|number| *number != u32::MAX);
    number.ok_or_else(|| SpecError::invalid(format!("{what} {value} is not from 0 to 4294967294")))
}

/// The number `text` is, `None` if it is a name. What looks like a number but is none is refused.
fn number(text: &str) -> Result<Option<u32>, SpecError> {
    let first = text.bytes().next();
    if first.is_some() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        return match text.parse::<u32>() {
            Ok(number) if number != u32::MAX => Ok(Some(number)),
            _ => Err(SpecError::invalid(format!("{text:?} is not a user or group number: 0 to 4294967294"))),
        };
    }
    let odd = |byte: u8| byte.is_ascii_digit() || matches!(byte, b'+' | b'-') || byte.is_ascii_whitespace();
    if first.is_none_or(odd) {
        return Err(SpecError::invalid(format!("{text:?} is neither a user or group number nor a name")));
    }
    Ok(None)
}

fn field(text: &str, what: &str, name: &str) -> Result<u32, SpecError> {
    let number = text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten();
    number
        .filter(|number| *number != u32::MAX)
        .ok_or_else(|| SpecError::invalid(format!("the image's entry of {what} {name:?} has no number: {text:?}")))
}

#[cfg(test)]
mod tests {
    use proto::cri::Int64Value;

    use super::*;

    fn accounts() -> Accounts {
        Accounts {
            passwd: "root:x:0:0:root:/root:/bin/sh\nweb:x:33:34::/:/bin/sh\nbad:x:+0:0::/:\n".into(),
            group: "root:x:0:\nwheel:x:10:root,web\nlog:x:11:web\nbad:x:-1:\n".into(),
        }
    }

    fn ids(security: &LinuxContainerSecurityContext, image: &str) -> Option<(u32, u32, Vec<u32>)> {
        resolve(security, image, &accounts()).ok().map(|user| (user.uid, user.gid, user.groups))
    }

    #[test]
    fn users_of_the_image_as_a_table() {
        for (text, expected) in [
            ("", Some((0, 0, vec![0, 10]))),
            ("0", Some((0, 0, vec![0, 10]))),
            ("web", Some((33, 34, vec![34, 10, 11]))),
            ("33", Some((33, 34, vec![34, 10, 11]))),
            ("web:log", Some((33, 11, vec![11, 10]))),
            ("1000", Some((1000, 0, vec![0]))),
            ("1000:1001", Some((1000, 1001, vec![1001]))),
            ("4294967294", Some((4_294_967_294, 0, vec![0]))),
            ("4294967295", None),
            ("4294967296", None),
            ("-1", None),
            ("+0", None),
            (" 0", None),
            ("0x0", None),
            ("nobody", None),
            ("web:none", None),
            (":0", None),
            ("web:", None),
            ("bad", None),
            ("web:bad", None),
        ] {
            assert_eq!(ids(&LinuxContainerSecurityContext::default(), text), expected, "{text:?}");
        }
    }

    #[test]
    fn what_the_pod_asks_for_as_a_table() {
        let number = |value: i64| Some(Int64Value { value });
        let base = LinuxContainerSecurityContext::default;
        let strict = SupplementalGroupsPolicy::Strict as i32;
        for (security, expected) in [
            (LinuxContainerSecurityContext { run_as_user: number(33), ..base() }, Some((33, 34, vec![34, 10, 11]))),
            (
                LinuxContainerSecurityContext { run_as_username: "web".into(), ..base() },
                Some((33, 34, vec![34, 10, 11])),
            ),
            (
                LinuxContainerSecurityContext { run_as_user: number(33), run_as_group: number(5), ..base() },
                Some((33, 5, vec![5, 10, 11])),
            ),
            (LinuxContainerSecurityContext { run_as_group: number(5), ..base() }, None),
            (LinuxContainerSecurityContext { run_as_user: number(-1), ..base() }, None),
            (LinuxContainerSecurityContext { run_as_user: number(1 << 32), ..base() }, None),
            (LinuxContainerSecurityContext { run_as_username: "a:b".into(), ..base() }, None),
            (
                LinuxContainerSecurityContext {
                    run_as_user: number(33),
                    supplemental_groups: vec![7, 34, 7],
                    supplemental_groups_policy: strict,
                    ..base()
                },
                Some((33, 34, vec![34, 7])),
            ),
            (
                LinuxContainerSecurityContext { run_as_user: number(33), supplemental_groups: vec![7], ..base() },
                Some((33, 34, vec![34, 10, 11, 7])),
            ),
            (LinuxContainerSecurityContext { supplemental_groups: vec![-7], ..base() }, None),
            (LinuxContainerSecurityContext { supplemental_groups_policy: 9, ..base() }, None),
        ] {
            assert_eq!(ids(&security, "log"), expected.clone(), "{security:?}");
        }
    }

    #[test]
    fn an_image_without_files_knows_numbers_only() {
        let none = Accounts::default();
        let security = LinuxContainerSecurityContext::default();
        assert_eq!(resolve(&security, "", &none).unwrap(), User { uid: 0, gid: 0, groups: vec![0] });
        assert_eq!(resolve(&security, "7", &none).unwrap(), User { uid: 7, gid: 0, groups: vec![0] });
        assert!(resolve(&security, "root", &none).is_err());
    }
}
