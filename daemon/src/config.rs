//! What the daemon is told: flags, and containerd's configuration file in versions 2 and 3.
