//! One behaviour, two trees.

use std::io::ErrorKind;
use std::path::Path;

use crate::storage::dir::sim::SimDir;
use crate::storage::dir::{Dir, RealDir};

fn on_both(check: impl Fn(&dyn Dir)) {
    let temp = tempfile::tempdir().unwrap();
    check(&RealDir::take(&temp.path().join("made/for/it")).unwrap());
    check(&SimDir::new());
}

/// The names in a directory, but for the lock of the real one.
fn names(dir: &dyn Dir, path: &str) -> Vec<String> {
    let mut names = dir.list(Path::new(path)).unwrap();
    names.retain(|name| name != "LOCK");
    names
}

fn path(path: &str) -> &Path {
    Path::new(path)
}

#[test]
fn written_bytes_are_read_back_at_their_position() {
    on_both(|dir| {
        let file = dir.create(path("a")).unwrap();
        file.write_all_at(b"hello", 3).unwrap();
        let mut buf = [9; 10];
        assert_eq!(file.read_at(&mut buf, 0).unwrap(), 8);
        assert_eq!(&buf, b"\0\0\0hello\x09\x09");
        assert_eq!(file.read_at(&mut buf[..2], 4).unwrap(), 2);
        assert_eq!(&buf[..2], b"el");
        assert_eq!(file.read_at(&mut buf, 8).unwrap(), 0);
        assert_eq!(file.read_at(&mut buf, 100).unwrap(), 0);
        assert_eq!(file.len().unwrap(), 8);
        file.sync_data().unwrap();
    });
}

#[test]
fn parts_are_written_one_behind_the_other() {
    on_both(|dir| {
        let file = dir.create(path("a")).unwrap();
        let large = vec![7; 3 << 20];
        for (parts, position) in [
            ([&b"ab"[..], &b""[..], &b"cde"[..]], 1),
            ([&b""[..], &b""[..], &b""[..]], 100),
            ([&b""[..], &b"x"[..], &b""[..]], 3),
            ([&b"yz"[..], &large[..], &b"end"[..]], 6),
        ] {
            file.write_parts_at(parts, position).unwrap();
        }
        let mut bytes = vec![9; large.len() + 20];
        let read = file.read_at(&mut bytes, 0).unwrap();
        assert_eq!(read, 6 + 2 + large.len() + 3);
        assert_eq!(&bytes[..8], b"\0abxdeyz");
        assert!(bytes[8..8 + large.len()].iter().all(|&byte| byte == 7));
        assert_eq!(&bytes[8 + large.len()..read], b"end");
    });
}

#[test]
fn set_len_cuts_and_extends_with_zeros() {
    on_both(|dir| {
        let file = dir.create(path("a")).unwrap();
        file.write_all_at(b"0123456789", 0).unwrap();
        file.set_len(4).unwrap();
        file.set_len(6).unwrap();
        let mut buf = [9; 6];
        assert_eq!(file.read_at(&mut buf, 0).unwrap(), 6);
        assert_eq!(&buf, b"0123\0\0");
    });
}

#[test]
fn room_ahead_is_no_part_of_a_file() {
    on_both(|dir| {
        let file = dir.create(path("a")).unwrap();
        file.take_room(0, 64 << 10);
        assert_eq!(file.len().unwrap(), 0);
        file.write_all_at(b"0123456789", 0).unwrap();
        file.take_room(10, 10);
        file.take_room(64 << 10, 128 << 10);
        assert_eq!(file.len().unwrap(), 10);
        file.set_len(10).unwrap();
        file.sync_data().unwrap();
        let mut buf = [9; 20];
        assert_eq!(file.read_at(&mut buf, 0).unwrap(), 10);
        assert_eq!(&buf[..10], b"0123456789");
    });
}

#[test]
fn flush_goes_well_behind_writing_that_was_begun() {
    on_both(|dir| {
        let file = dir.create(path("a")).unwrap();
        for _ in 0..3 {
            file.write_all_at(b"x", 0).unwrap();
            dir.begin_writeback();
        }
        dir.sync_all().unwrap();
        assert_eq!(names(dir, ""), ["a"]);
    });
}

#[test]
fn handles_of_one_file_see_the_same_bytes() {
    on_both(|dir| {
        let one = dir.create(path("a")).unwrap();
        let two = dir.open(path("a")).unwrap();
        one.write_all_at(b"x", 0).unwrap();
        let mut buf = [0];
        assert_eq!(two.read_at(&mut buf, 0).unwrap(), 1);
        assert_eq!(&buf, b"x");
    });
}

#[test]
fn missing_and_existing_names_are_told_apart() {
    on_both(|dir| {
        assert_eq!(dir.open(path("a")).unwrap_err().kind(), ErrorKind::NotFound);
        assert_eq!(
            dir.remove(path("a")).unwrap_err().kind(),
            ErrorKind::NotFound
        );
        dir.create(path("a")).unwrap();
        let again = dir.create(path("a")).unwrap_err();
        assert_eq!(again.kind(), ErrorKind::AlreadyExists);
        let orphan = dir.create(path("no/such")).unwrap_err();
        assert_eq!(orphan.kind(), ErrorKind::NotFound);
        assert_eq!(
            dir.sync_dir(path("no")).unwrap_err().kind(),
            ErrorKind::NotFound
        );
        assert_eq!(
            dir.rename(path("no"), path("b")).unwrap_err().kind(),
            ErrorKind::NotFound
        );
    });
}

#[test]
fn rename_replaces_and_a_removed_file_stays_readable() {
    on_both(|dir| {
        let old = dir.create(path("old")).unwrap();
        old.write_all_at(b"old", 0).unwrap();
        let new = dir.create(path("new")).unwrap();
        new.write_all_at(b"new", 0).unwrap();
        dir.rename(path("new"), path("old")).unwrap();
        assert_eq!(names(dir, ""), ["old"]);
        let mut buf = [0; 3];
        assert_eq!(old.read_at(&mut buf, 0).unwrap(), 3);
        assert_eq!(&buf, b"old");
        let opened = dir.open(path("old")).unwrap();
        dir.remove(path("old")).unwrap();
        opened.read_at(&mut buf, 0).unwrap();
        assert_eq!(&buf, b"new");
        assert!(names(dir, "").is_empty());
    });
}

#[test]
fn directories_are_made_listed_and_removed_with_their_contents() {
    on_both(|dir| {
        dir.create_dir(path("p")).unwrap();
        dir.create_dir(path("p")).unwrap();
        dir.create_dir(path("p/q")).unwrap();
        dir.create(path("p/q/b")).unwrap();
        dir.create(path("p/q/a")).unwrap();
        assert_eq!(names(dir, "p/q"), ["a", "b"]);
        assert_eq!(names(dir, "p"), ["q"]);
        dir.sync_dir(path("p")).unwrap();
        dir.sync_dir(path("")).unwrap();
        dir.sync_all().unwrap();
        dir.remove_dir_all(path("p")).unwrap();
        dir.remove_dir_all(path("p")).unwrap();
        assert!(names(dir, "p").is_empty());
        assert!(names(dir, "").is_empty());
        assert!(dir.available_bytes().unwrap() > 0);
        let orphan = dir.create_dir(path("p/q")).unwrap_err();
        assert_eq!(orphan.kind(), ErrorKind::NotFound);
    });
}

#[test]
fn file_knows_whether_it_has_a_name() {
    on_both(|dir| {
        let file = dir.create(path("a")).unwrap();
        file.write_all_at(b"hello", 0).unwrap();
        assert_eq!(file.len_if_named().unwrap(), Some(5));
        dir.rename(path("a"), path("b")).unwrap();
        assert_eq!(file.len_if_named().unwrap(), Some(5));
        // Another one takes its place.
        dir.create(path("a")).unwrap();
        dir.rename(path("a"), path("b")).unwrap();
        assert_eq!(file.len_if_named().unwrap(), None);
        assert_eq!(file.len().unwrap(), 5);
        let file = dir.open(path("b")).unwrap();
        dir.remove(path("b")).unwrap();
        assert_eq!(file.len_if_named().unwrap(), None);
    });
}
