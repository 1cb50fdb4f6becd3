//! The caller's own terminal: raw while a container uses it, as it was afterwards.

use std::io::IsTerminal as _;
use std::sync::Mutex;

use nix::sys::termios::{SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};

/// What the terminal was before.
static BEFORE: Mutex<Option<Termios>> = Mutex::new(None);

/// Whether input and output are a terminal.
pub(crate) fn is_one() -> bool {
    std::io::stdin().is_terminal() && std::io::stdout().is_terminal()
}

/// Hands every key to the container, until [`restore`].
pub(crate) fn raw() -> std::io::Result<()> {
    let stdin = std::io::stdin();
    let before = tcgetattr(&stdin)?;
    let mut raw = before.clone();
    cfmakeraw(&mut raw);
    tcsetattr(&stdin, SetArg::TCSANOW, &raw)?;
    *BEFORE.lock().expect("no panic while it is held") = Some(before);
    Ok(())
}

/// Puts the terminal back as it was. Does nothing where it was never changed.
pub(crate) fn restore() {
    let before = BEFORE.lock().map(|mut before| before.take());
    if let Ok(Some(before)) = before {
        // There is nothing else to do about a terminal that is gone.
        let _ = tcsetattr(std::io::stdin(), SetArg::TCSANOW, &before);
    }
}

/// Width and height in characters, if output is a terminal that knows.
pub(crate) fn size() -> Option<(u32, u32)> {
    let size = rustix::termios::tcgetwinsize(std::io::stdout()).ok()?;
    (size.ws_col > 0 && size.ws_row > 0).then(|| (size.ws_col.into(), size.ws_row.into()))
}
