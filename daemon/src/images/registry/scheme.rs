//! With or without encryption.

/// How to speak to a registry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
    /// Without encryption.
    Http,
    /// With it.
    Https,
}

impl Scheme {
    /// The scheme for a host that nobody said anything about: encryption, except on this very machine.
    pub fn for_host(host: &str) -> Self {
        let name = match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            Some((address, _)) => address,
            None => host.split_once(':').map_or(host, |(name, _)| name),
        };
        let loopback = name.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback());
        if loopback || name == "localhost" { Self::Http } else { Self::Https }
    }

    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_is_spoken_to_without_encryption() {
        for (host, scheme) in [
            ("localhost", Scheme::Http),
            ("localhost:5000", Scheme::Http),
            ("127.0.0.1:5000", Scheme::Http),
            ("127.9.9.9", Scheme::Http),
            ("[::1]:5000", Scheme::Http),
            ("localhost.example:5000", Scheme::Https),
            ("docker.io", Scheme::Https),
            ("10.0.0.1:5000", Scheme::Https),
            ("[2001:db8::1]:5000", Scheme::Https),
        ] {
            assert_eq!(Scheme::for_host(host), scheme, "{host}");
        }
    }
}
