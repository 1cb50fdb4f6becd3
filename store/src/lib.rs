//! Everything durable: metadata in typed tables behind one committer ([`Store`]), blobs in files ([`blob`]).
//!
//! This is the only crate that knows the engines (sled, redb). It is synchronous; [`Pending`] is its one bridge to async
//! callers. What it acknowledges is on disk. It never repairs, moves or removes anything unasked; [`check`] reports.
//!
//! ```no_run
//! use store::{Options, Read, Store, StoreError, key, record::NamespaceRecord, tables::NAMESPACES};
//!
//! # fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let store = Store::open("/var/lib/gantry/meta".as_ref(), Options::default())?;
//! store.write(|tx| {
//!     let record = NamespaceRecord { labels: Default::default(), created_at: std::time::SystemTime::now() };
//!     tx.put(&NAMESPACES, &key(&["default"])?, &record)
//! })?;
//! assert!(store.read().get(&NAMESPACES, &key(&["default"])?)?.is_some());
//! # Ok(())
//! # }
//! ```

pub mod atomic;
pub mod blob;
pub mod check;
mod chunks;
mod committer;
mod convert;
mod engine;
mod error;
mod failpoint;
mod key;
mod open;
mod overlay;
mod pending;
mod read;
pub mod record;
mod redb_engine;
mod reserve;
mod shared;
mod sled_engine;
mod store;
mod table;
pub mod tables;
mod tx;

pub use committer::{GROUP_BYTES, GROUP_REQUESTS, QUEUE};
pub use convert::convert;
pub use engine::{Batch, MetaStore, Pair, Span};
pub use error::{EngineError, OpenCause, OpenError, StoreError};
pub use failpoint::failpoint;
pub use key::{key, key_parts, last_part, prefix};
pub use open::{Engine, Options, UnknownEngine, move_aside};
pub use pending::Pending;
pub use read::{Read, Reader};
pub use store::Store;
pub use table::{Record, Table};
pub use tx::{MAX_TX_BYTES, Tx};
