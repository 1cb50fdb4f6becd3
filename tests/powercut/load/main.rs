//! Works on a daemon until the power goes, and says what was acknowledged; or checks afterwards that it is there and whole.
//!
//! ```text
//! gantry-load work ADDRESS SEED      ACK content|image|snapshot|container NAMESPACE NAME …, or the same with `gone-` or `maybe-` before it
//! gantry-load check ADDRESS FILE     BAD …, SELF-TEST ok, VERDICT ok|bad
//! ```
//!
//! It speaks containerd's API only, so that the same is asked of every daemon.

mod check;
mod thing;
mod work;

use std::path::Path;

use anyhow::{Context as _, bail};

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [what, address, rest] = arguments.as_slice() else { bail!("usage: gantry-load work|check ADDRESS SEED|FILE") };
    match what.as_str() {
        "work" => {
            let seed = rest.parse().context("the seed is a number")?;
            if let Err(error) = work::work(Path::new(address), seed).await {
                println!("LOAD FAILED {error:#}");
            }
            Ok(())
        }
        "check" => {
            let found = check::check(Path::new(address), Path::new(rest)).await;
            match found {
                Ok(counts) => println!("VERDICT ok: {counts}"),
                Err(error) => println!("VERDICT bad: {error:#}"),
            }
            Ok(())
        }
        other => bail!("{other} is neither work nor check"),
    }
}
