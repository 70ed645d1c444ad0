//! What is replayed: the first changes of a real repository's files, commit by
//! commit. A line that begins with `#` begins a commit; each other one is what a file
//! became, or `-` where it was removed, and its path.

/// The beginning of the history of a messaging server, from 2012 to 2016.
const HISTORY: &str = include_str!("history.txt");

/// What became of files at one moment.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Commit {
    /// The beginning of its hash.
    pub(super) name: &'static str,
    /// Seconds since the Unix epoch.
    pub(super) time: i64,
    pub(super) files: Vec<File>,
}

/// What became of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct File {
    pub(super) path: &'static str,
    /// The beginning of the hash of its content; none when it was removed.
    pub(super) blob: Option<&'static str>,
}

/// The commits, in their order.
pub(super) fn commits() -> Vec<Commit> {
    read(HISTORY)
}

fn read(text: &'static str) -> Vec<Commit> {
    let mut commits: Vec<Commit> = Vec::new();
    for line in text.lines() {
        let (what, rest) = line.split_once(' ').expect("two words a line");
        if what == "#" {
            let (name, time) = rest.split_once(' ').expect("a commit has a time");
            commits.push(Commit {
                name,
                time: time.parse().expect("it is a number"),
                files: Vec::new(),
            });
            continue;
        }
        let commit = commits.last_mut().expect("a commit comes first");
        commit.files.push(File {
            path: rest,
            blob: (what != "-").then_some(what),
        });
    }
    commits
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn commits_have_their_files() {
        let commits = read("# abc 7\nb10b a/b c\n- d\n# def 8\nb10c d\n");
        let file = |path, blob| File { path, blob };
        assert_eq!(
            (commits[0].name, commits[0].time, commits.len()),
            ("abc", 7, 2)
        );
        assert_eq!(
            commits[0].files,
            [file("a/b c", Some("b10b")), file("d", None)]
        );
    }

    #[test]
    fn history_fits_into_the_binary_and_each_commit_into_one_call() {
        assert!(HISTORY.len() < 100_000);
        let commits = commits();
        assert!(commits.len() > 500);
        for commit in commits {
            let paths: BTreeSet<_> = commit.files.iter().map(|file| file.path).collect();
            assert_eq!(paths.len(), commit.files.len(), "each file once");
            assert!((1..=1000).contains(&paths.len()));
        }
    }
}
