//! What retention removed, and a crash brings back.

use super::*;

/// A crash may bring files back that retention removed. Tombstones for what is in them
/// stay until they are gone for good: the checkpoint, which says that they don't count,
/// may be lost.
#[test]
fn what_a_crash_brings_back_keeps_its_tombstones() {
    let mut brought_back = 0;
    for seed in 0..60 {
        let fixture = Fixture::new();
        fixture.put_at(1, &[("b", Some("1"))]);
        fixture.put_at(1000, &[("a", Some("1")), ("b", None)]);
        fixture.put_at(1000, &[("a", Some("2"))]);
        fixture.put_at(1000, &[("active", Some("1"))]);
        fixture.archive();
        let retention = PartitionRetention {
            log: fixture.log.clone(),
            retention_ms: Some(500_000),
            retention_bytes: None,
        };
        let removed = fixture
            .storage
            .apply_retention([retention].into_iter(), 1_000_000);
        assert_eq!(removed.unwrap(), 1);
        let dir = fixture.dir.crash(seed);
        let mut fixture = Fixture::open(&dir, Arc::new(dir.clone()));
        let first = segment::log_path(ID, Offset(0));
        brought_back += u32::from(dir.open(&first).is_ok());
        let _ = fixture.compact_with(&Gentle(true)).unwrap();
        // Once more, with what retention left behind out of the way.
        fixture
            .storage
            .apply_retention(std::iter::empty(), 0)
            .unwrap();
        let _ = fixture.compact_with(&Gentle(true)).unwrap();
        assert_eq!(fixture.keys_left(), "3a 4active");
        let dir = fixture.dir.crash(seed + 1);
        dir.remove(Path::new("checkpoint")).unwrap();
        let fixture = Fixture::open(&dir, Arc::new(dir.clone()));
        assert_eq!(fixture.keys_left(), "3a 4active", "seed {seed}");
    }
    assert!(brought_back > 0);
}
