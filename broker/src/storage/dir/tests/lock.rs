//! A data directory belongs to one process.

use std::io::ErrorKind;
use std::path::Path;

use crate::storage::dir::{Dir, ExaminedDir, RealDir, TakeError};

#[test]
fn held_directory_names_its_holder_and_is_free_after_the_drop() {
    let temp = tempfile::tempdir().unwrap();
    let held = RealDir::take(temp.path()).unwrap();
    let refusals = [
        RealDir::take(temp.path()).unwrap_err(),
        ExaminedDir::open(temp.path()).unwrap_err(),
    ];
    for refusal in refusals {
        let TakeError::InUse { root, holder } = refusal else {
            panic!("{refusal}");
        };
        assert_eq!(root, temp.path());
        assert_eq!(holder.trim(), std::process::id().to_string());
    }
    drop(held);
    RealDir::take(temp.path()).unwrap();
}

#[test]
fn directory_may_be_examined_by_several_but_not_taken_meanwhile() {
    let temp = tempfile::tempdir().unwrap();
    drop(RealDir::take(temp.path()).unwrap());
    let one = ExaminedDir::open(temp.path()).unwrap();
    let two = ExaminedDir::open(temp.path()).unwrap();
    RealDir::take(temp.path()).unwrap_err();
    drop((one, two));
    RealDir::take(temp.path()).unwrap();
}

#[test]
fn examined_directory_can_be_read_and_not_changed() {
    let temp = tempfile::tempdir().unwrap();
    let name = Path::new("a");
    let taken = RealDir::take(temp.path()).unwrap();
    taken.create(name).unwrap().write_all_at(b"x", 0).unwrap();
    drop(taken);
    let examined = ExaminedDir::open(temp.path()).unwrap();
    assert!(examined.list(Path::new("")).unwrap().contains(&"a".into()));
    let file = examined.open(name).unwrap();
    assert_eq!(file.len().unwrap(), 1);
    file.write_all_at(b"y", 0).unwrap_err();
    file.set_len(0).unwrap_err();
    for refused in [
        examined.create(Path::new("b")).map(drop),
        examined.rename(name, Path::new("b")),
        examined.remove(name),
        examined.create_dir(Path::new("p")),
        examined.remove_dir_all(Path::new("p")),
    ] {
        assert_eq!(refused.unwrap_err().kind(), ErrorKind::ReadOnlyFilesystem);
    }
}

#[test]
fn root_that_is_a_file_is_refused_and_a_missing_one_is_not_examined() {
    let temp = tempfile::tempdir().unwrap();
    let file = temp.path().join("file");
    std::fs::write(&file, "").unwrap();
    RealDir::take(&file).unwrap_err();
    let missing = temp.path().join("missing");
    ExaminedDir::open(&missing).unwrap_err();
    assert!(!missing.exists());
}
