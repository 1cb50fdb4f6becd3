//! Signals by the names that Kubernetes, images and people use for them.

use proto::cri::Signal;

use super::SpecError;

/// The first real-time signal that programs may use, as the C library of most images counts.
const RTMIN: u32 = 34;
/// The last real-time signal.
const RTMAX: u32 = 64;

/// The largest number in Kubernetes' list.
const LAST: i32 = 65;

/// Names and numbers, as on every architecture that is served but MIPS.
const NAMES: [(&str, u32); 34] = [
    ("ABRT", 6),
    ("ALRM", 14),
    ("BUS", 7),
    ("CHLD", 17),
    ("CLD", 17),
    ("CONT", 18),
    ("FPE", 8),
    ("HUP", 1),
    ("ILL", 4),
    ("INT", 2),
    ("IO", 29),
    ("IOT", 6),
    ("KILL", 9),
    ("PIPE", 13),
    ("POLL", 29),
    ("PROF", 27),
    ("PWR", 30),
    ("QUIT", 3),
    ("SEGV", 11),
    ("STKFLT", 16),
    ("STOP", 19),
    ("SYS", 31),
    ("TERM", 15),
    ("TRAP", 5),
    ("TSTP", 20),
    ("TTIN", 21),
    ("TTOU", 22),
    ("URG", 23),
    ("USR1", 10),
    ("USR2", 12),
    ("VTALRM", 26),
    ("WINCH", 28),
    ("XCPU", 24),
    ("XFSZ", 25),
];

/// The number of a signal by its name (`SIGTERM`, `term`, `SIGRTMIN+3`) or number.
///
/// # Errors
/// There is no such signal.
pub fn number(text: &str) -> Result<u32, SpecError> {
    let unknown = || SpecError::invalid(format!("unknown signal {text:?}"));
    if text.bytes().all(|byte| byte.is_ascii_digit()) {
        return text.parse().ok().filter(|number| (1..=RTMAX).contains(number)).ok_or_else(unknown);
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    if let Some((_, number)) = NAMES.iter().find(|(known, _)| *known == name) {
        return Ok(*number);
    }
    // RTMIN, RTMIN+n, RTMINPLUSn and the same downwards from RTMAX.
    let counted = |rest: &str, signs: [&str; 2]| {
        let digits = if rest.is_empty() { "0" } else { signs.iter().find_map(|sign| rest.strip_prefix(sign))? };
        digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse::<u32>().ok()).flatten()
    };
    let found = if let Some(rest) = name.strip_prefix("RTMIN") {
        counted(rest, ["+", "PLUS"]).and_then(|n| RTMIN.checked_add(n))
    } else if let Some(rest) = name.strip_prefix("RTMAX") {
        counted(rest, ["-", "MINUS"]).and_then(|n| RTMAX.checked_sub(n))
    } else {
        None
    };
    found.filter(|number| (RTMIN..=RTMAX).contains(number)).ok_or_else(unknown)
}

/// The signal of Kubernetes' list for a name that an image uses; the default for none, or for one that is not on the list.
pub fn to_wire(text: &str) -> Signal {
    if text.is_empty() {
        return Signal::Sigterm;
    }
    let Ok(wanted) = number(text) else { return Signal::RuntimeDefault };
    // The list has several names for some numbers: the plain ones are asked first.
    let mut known = (1..=LAST).filter_map(|value| Signal::try_from(value).ok());
    let same = |signal: &Signal| number(signal.as_str_name()).ok() == Some(wanted);
    let upper = text.to_ascii_uppercase();
    let exact = known.clone().find(|signal| signal.as_str_name() == upper);
    exact.or_else(|| known.find(same)).unwrap_or(Signal::RuntimeDefault)
}

/// What ends a container: what the pod says, else the image, else TERM.
///
/// # Errors
/// The signal is not known.
pub fn stop_signal(wanted: i32, image: &str) -> Result<u32, SpecError> {
    let unknown = || SpecError::invalid(format!("unknown stop signal {wanted}"));
    match Signal::try_from(wanted).map_err(|_| unknown())? {
        Signal::RuntimeDefault if image.is_empty() => Ok(15),
        Signal::RuntimeDefault => number(image),
        signal => number(signal.as_str_name()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_as_a_table() {
        for (text, expected) in [
            ("SIGTERM", Some(15)),
            ("term", Some(15)),
            ("9", Some(9)),
            ("SIGRTMIN", Some(34)),
            ("SIGRTMIN+3", Some(37)),
            ("SIGRTMINPLUS15", Some(49)),
            ("RTMAX-1", Some(63)),
            ("SIGRTMAXMINUS14", Some(50)),
            ("SIGRTMAX-64", None),
            ("SIGRTMIN+31", None),
            ("SIGRTMIN+-1", None),
            ("0", None),
            ("65", None),
            ("", None),
            ("SIGNOPE", None),
            ("4294967305", None),
        ] {
            assert_eq!(number(text).ok(), expected, "{text:?}");
        }
    }

    #[test]
    fn every_signal_of_the_list_has_a_number() {
        for value in 1..=LAST {
            let signal = Signal::try_from(value).unwrap();
            assert!(number(signal.as_str_name()).is_ok(), "{}", signal.as_str_name());
            let back = to_wire(signal.as_str_name());
            assert_eq!(back, signal, "{}", signal.as_str_name());
        }
        assert!(Signal::try_from(LAST + 1).is_err());
    }

    #[test]
    fn the_pod_wins_over_the_image() {
        for (wanted, image, expected) in [
            (Signal::RuntimeDefault as i32, "", Some(15)),
            (Signal::RuntimeDefault as i32, "SIGQUIT", Some(3)),
            (Signal::Sigusr1 as i32, "SIGQUIT", Some(10)),
            (Signal::RuntimeDefault as i32, "SIGNOPE", None),
            (99, "", None),
        ] {
            assert_eq!(stop_signal(wanted, image).ok(), expected, "{wanted} {image}");
        }
        for (image, expected) in [
            ("", Signal::Sigterm),
            ("SIGQUIT", Signal::Sigquit),
            ("3", Signal::Sigquit),
            ("rtmin+3", Signal::Sigrtminplus3),
            ("x", Signal::RuntimeDefault),
        ] {
            assert_eq!(to_wire(image), expected, "{image}");
        }
    }
}
