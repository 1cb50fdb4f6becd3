//! The reader of databases against wrong bytes; the whole is tested on what Debian's containerd wrote.

use super::bolt::Database;
use super::*;

#[test]
fn what_is_no_database_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("meta.db");
    for bytes in [vec![], vec![0; 100], vec![7; 20_000]] {
        std::fs::write(&path, bytes).unwrap();
        assert!(Database::open(&path).is_err());
    }
}

/// A file with one leaf page: a bucket `b` that holds `k` = `v`, inline.
fn small() -> Vec<u8> {
    let mut file = vec![0u8; 4096 * 3];
    let mut inline = vec![0u8; 16 + 16];
    inline[8] = 2;
    inline[10] = 1;
    inline[16 + 4] = 16;
    inline[16 + 8] = 1;
    inline[16 + 12] = 1;
    inline.extend(b"kv");
    let mut value = vec![0u8; 16];
    value.extend(inline);
    let leaf = &mut file[4096 * 2..];
    leaf[0] = 2;
    leaf[8] = 2;
    leaf[10] = 1;
    leaf[16] = 1;
    leaf[20] = 16;
    leaf[24] = 1;
    leaf[28] = u8::try_from(value.len()).unwrap();
    leaf[32] = b'b';
    leaf[33..33 + value.len()].copy_from_slice(&value);
    let mut meta = Vec::new();
    meta.extend(0xED0C_DAEDu32.to_le_bytes());
    meta.extend(2u32.to_le_bytes());
    meta.extend(4096u32.to_le_bytes());
    meta.extend(0u32.to_le_bytes());
    for number in [2u64, 0, 3, 3, 9] {
        meta.extend(number.to_le_bytes());
    }
    let sum =
        meta.iter().fold(0xcbf2_9ce4_8422_2325_u64, |sum, byte| (sum ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3));
    meta.extend(sum.to_le_bytes());
    file[4096 + 16..4096 + 16 + meta.len()].copy_from_slice(&meta);
    file
}

#[test]
fn one_whole_head_is_enough_and_no_damage_makes_it_panic() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("meta.db");
    let good = small();
    std::fs::write(&path, &good).unwrap();
    let database = Database::open(&path).unwrap();
    let bucket = database.root().bucket("b").unwrap().expect("the bucket is there");
    let items = bucket.items().unwrap();
    assert_eq!(items.len(), 1);
    assert!(matches!(&items[0], (key, bolt::Item::Value(value)) if key == b"k" && value == b"v"));
    for at in (4096 * 2..4096 * 2 + 120).chain(4096 + 16..4096 + 90) {
        for wrong in [0, 1, 0x7f, 0xff] {
            let mut bad = good.clone();
            bad[at] = wrong;
            std::fs::write(&path, &bad).unwrap();
            let Ok(database) = Database::open(&path) else { continue };
            if let Ok(all) = database.root().buckets() {
                for (_, bucket) in all {
                    let _ = bucket.items();
                }
            }
        }
    }
}

#[test]
fn there_is_nothing_to_take_back_without_a_note() {
    let folder = tempfile::tempdir().unwrap();
    let store = store::Store::open(&folder.path().join("meta"), store::Options::default()).unwrap();
    assert!(matches!(undo(folder.path(), &store), Err(MigrateError::NoNote { .. })));
}
